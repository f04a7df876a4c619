package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// pollInterval is short beside the seconds that a start takes.
const pollInterval = 100 * time.Millisecond

// announceReady prints READY on standard output once address answers 200, or gives up loudly.
func announceReady(o *options, address, kubeconfig string) {
	client, err := readyClient(kubeconfig)
	if err != nil {
		fmt.Fprintln(os.Stderr, "controlplane:", err)
		os.Exit(1)
	}
	deadline := time.Now().Add(startMax)
	for time.Now().Before(deadline) {
		if answersOK(client, address) {
			fmt.Println("READY", o.server())
			return
		}
		time.Sleep(pollInterval)
	}
	fmt.Fprintf(os.Stderr, "controlplane: %s not ready within %s\n", address, startMax)
	os.Exit(1)
}

func readyClient(kubeconfig string) (*http.Client, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", kubeconfig, err)
	}
	// The controller manager serves a self-signed certificate on loopback; what is asked here
	// is whether it runs, nothing else is sent.
	config.TLSClientConfig.Insecure, config.TLSClientConfig.CAData = true, nil
	return rest.HTTPClientFor(config)
}

func answersOK(client *http.Client, address string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return false
	}
	response, err := client.Do(request)
	if err != nil {
		return false
	}
	response.Body.Close()
	return response.StatusCode == http.StatusOK
}
