package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

// startMax bounds how long each component may take to become ready.
const startMax = 2 * time.Minute

// runAPIServer runs etcd and the API server until SIGTERM or SIGINT.
func runAPIServer(args []string) error {
	o, err := parse("etcd+apiserver", args)
	if err != nil {
		return err
	}
	if err := preparePKI(o); err != nil {
		return err
	}
	etcd, err := startEtcd(o)
	if err != nil {
		return fmt.Errorf("start etcd: %w", err)
	}
	exitOnSignal(etcd.Close)
	go announceReady(o, o.server()+"/readyz", o.path("admin.kubeconfig"))

	client := etcdClientURL(o)
	command := app.NewAPIServerCommand()
	command.SetArgs(append([]string{
		"--etcd-servers=" + client.String(),
		"--bind-address=" + o.address,
		"--advertise-address=" + o.address,
		fmt.Sprintf("--secure-port=%d", o.port),
		"--tls-cert-file=" + o.path("pki", "apiserver.crt"),
		"--tls-private-key-file=" + o.path("pki", "apiserver.key"),
		"--client-ca-file=" + o.path("pki", "ca.crt"),
		// Nobody aggregates APIs here, but the controller manager waits for these settings.
		"--requestheader-client-ca-file=" + o.path("pki", "ca.crt"),
		"--requestheader-allowed-names=front-proxy",
		"--requestheader-username-headers=X-Remote-User",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + o.path("pki", "sa.pub"),
		"--service-account-signing-key-file=" + o.path("pki", "sa.key"),
		"--service-cluster-ip-range=" + o.serviceCIDR,
		"--authorization-mode=RBAC",
		// The endpoints of the service "kubernetes" may not be loopback addresses, and nothing
		// in the lab reaches the API through that service.
		"--endpoint-reconciler-type=none",
	}, o.extra...))
	return command.ExecuteContext(context.Background())
}

func startEtcd(o *options) (*embed.Etcd, error) {
	config := embed.NewConfig()
	config.Dir = o.path("etcd")
	config.LogLevel = "error"
	// Tests do not survive a power cut, and are several times quicker without fsync.
	config.UnsafeNoFsync = true
	client := etcdClientURL(o)
	peer := url.URL{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", o.port+2)}
	config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	etcd, err := embed.StartEtcd(config)
	if err != nil {
		return nil, err
	}
	select {
	case <-etcd.Server.ReadyNotify():
		return etcd, nil
	case err := <-etcd.Err():
		return nil, err
	case <-time.After(startMax):
		etcd.Close()
		return nil, fmt.Errorf("not ready within %s", startMax)
	}
}

func etcdClientURL(o *options) url.URL {
	return url.URL{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", o.port+1)}
}

// exitOnSignal leaves at once: a graceful stop of the API server waits for open watches, which
// takes a minute or more.
func exitOnSignal(before func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-signals
		before()
		os.Exit(0)
	}()
}
