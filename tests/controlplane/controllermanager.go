package main

import (
	"context"
	"fmt"
	"strings"

	"k8s.io/kubernetes/cmd/kube-controller-manager/app"
)

// runControllerManager runs the controllers until SIGTERM or SIGINT.
func runControllerManager(args []string) error {
	o, err := parse("controller-manager", args)
	if err != nil {
		return err
	}
	exitOnSignal(func() {})
	config := o.path("controller-manager.kubeconfig")
	port := o.port + 3
	go announceReady(o, fmt.Sprintf("https://127.0.0.1:%d/healthz", port), config)

	arguments := []string{
		"--kubeconfig=" + config,
		"--authentication-kubeconfig=" + config,
		"--authorization-kubeconfig=" + config,
		"--bind-address=127.0.0.1",
		fmt.Sprintf("--secure-port=%d", port),
		"--cert-dir=" + o.path("pki", "controller-manager"),
		"--root-ca-file=" + o.path("pki", "ca.crt"),
		"--service-account-private-key-file=" + o.path("pki", "sa.key"),
		"--service-cluster-ip-range=" + o.serviceCIDR,
		"--cluster-cidr=" + o.clusterCIDR,
		fmt.Sprintf("--allocate-node-cidrs=%t", o.allocate),
		// There is one only, and it should take over at once after a restart.
		"--leader-elect=false",
		// Each controller acts with its own account, whose rights the API server has built in.
		"--use-service-account-credentials=true",
		// Fetching those accounts' tokens would otherwise take six seconds.
		"--kube-api-qps=500",
		"--kube-api-burst=1000",
	}
	if o.allocate {
		arguments = append(arguments, o.nodeMasks()...)
	}
	command := app.NewControllerManagerCommand()
	command.SetArgs(append(arguments, o.extra...))
	return command.ExecuteContext(context.Background())
}

// nodeMasks names the mask flags of the families in use: the others are refused.
func (o *options) nodeMasks() []string {
	var arguments []string
	if strings.Contains(o.clusterCIDR, ".") {
		arguments = append(arguments, fmt.Sprintf("--node-cidr-mask-size-ipv4=%d", o.mask4))
	}
	if strings.Contains(o.clusterCIDR, ":") {
		arguments = append(arguments, fmt.Sprintf("--node-cidr-mask-size-ipv6=%d", o.mask6))
	}
	return arguments
}
