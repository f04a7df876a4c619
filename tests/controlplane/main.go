// Command controlplane runs a Kubernetes control plane for the lab and the scenarios: etcd and
// kube-apiserver in one process, kube-controller-manager in another (both apply the process-wide
// logging configuration, which can be done once only).
//
// It never runs pods and never chooses a node for them: the lab stands in for scheduler and
// kubelet.
package main

import (
	"fmt"
	"os"
)

const usage = `usage: controlplane COMMAND [flags]

commands:
  etcd+apiserver      etcd and kube-apiserver; writes certificates and kubeconfigs first
  controller-manager  kube-controller-manager, against an API server started with the same -dir
  version             the Kubernetes version that is built in

"controlplane COMMAND -h" lists the flags.
`

func main() {
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	var err error
	switch command, args := os.Args[1], os.Args[2:]; command {
	case "etcd+apiserver":
		err = runAPIServer(args)
	case "controller-manager":
		err = runControllerManager(args)
	case "version":
		printVersion()
	default:
		fmt.Fprintf(os.Stderr, "unknown command %q\n\n%s", command, usage)
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "controlplane:", err)
		os.Exit(1)
	}
}
