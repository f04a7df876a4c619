package main

import (
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/component-base/version"
)

// options are what both commands take, so that one set of flags can be passed to either.
type options struct {
	dir         string
	address     string
	port        int
	sans        string
	serviceCIDR string
	clusterCIDR string
	mask4       int
	mask6       int
	allocate    bool
	user        string
	groups      string
	extra       repeated
}

// repeated is a flag that may be given several times.
type repeated []string

func (r *repeated) String() string { return strings.Join(*r, " ") }

func (r *repeated) Set(value string) error {
	*r = append(*r, value)
	return nil
}

func parse(command string, args []string) (*options, error) {
	o := &options{}
	flags := flag.NewFlagSet(command, flag.ExitOnError)
	flags.StringVar(&o.dir, "dir", "", "directory for certificates, kubeconfigs and etcd (required)")
	flags.StringVar(&o.address, "address", "127.0.0.1", "address on which the API server is reached")
	flags.IntVar(&o.port, "port", 6443, "port of the API server; etcd takes the two ports after "+
		"it, the controller manager the third, all on loopback")
	flags.StringVar(&o.sans, "sans", "", "further addresses and names for the API server's "+
		"certificate, separated by commas")
	flags.StringVar(&o.serviceCIDR, "service-cidr", "10.96.0.0/16,fd00:96::/112",
		"cluster IPs of Services, dual stack")
	flags.StringVar(&o.clusterCIDR, "cluster-cidr", "10.244.0.0/16,fd00:244::/48",
		"addresses of pods, dual stack")
	flags.IntVar(&o.mask4, "node-mask-ipv4", 24, "prefix length of a node's IPv4 pod network")
	flags.IntVar(&o.mask6, "node-mask-ipv6", 64, "prefix length of a node's IPv6 pod network")
	flags.BoolVar(&o.allocate, "allocate-node-cidrs", false,
		"let the controller manager give each Node its spec.podCIDRs")
	flags.StringVar(&o.user, "user", "system:serviceaccount:haflinger:haflinger",
		"user of haflinger.kubeconfig: it has only the rights that RBAC objects give it")
	flags.StringVar(&o.groups, "groups", "system:serviceaccounts,system:serviceaccounts:haflinger",
		"groups of that user, separated by commas")
	flags.Var(&o.extra, "arg", "a further argument for the component, such as --v=4 (repeatable)")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if o.dir == "" {
		return nil, fmt.Errorf("-dir is missing: name a directory for certificates and data")
	}
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return nil, err
	}
	o.dir = dir
	if net.ParseIP(o.address) == nil {
		return nil, fmt.Errorf("-address %q is no IP address", o.address)
	}
	return o, os.MkdirAll(o.path("pki"), 0o700)
}

func (o *options) path(elements ...string) string {
	return filepath.Join(append([]string{o.dir}, elements...)...)
}

func (o *options) server() string {
	return "https://" + net.JoinHostPort(o.address, fmt.Sprint(o.port))
}

func printVersion() { fmt.Println(version.Get().GitVersion) }
