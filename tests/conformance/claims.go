// Package conformance runs the official Gateway API conformance suite, unmodified, against the
// cluster that KUBECONFIG names. The lab starts it (tests/src/conformance).
package conformance

import (
	"slices"

	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
)

// profiles are claimed whole: a listing as conformant needs the core of one, Haflinger has five.
var profiles = []suite.ConformanceProfileName{
	suite.GatewayHTTPConformanceProfileName,
	suite.GatewayGRPCConformanceProfileName,
	suite.GatewayTLSConformanceProfileName,
	suite.GatewayTCPConformanceProfileName,
	suite.GatewayUDPConformanceProfileName,
}

// notClaimed names every feature of the suite that Haflinger does not claim, and why. All others
// are tried, and TestClaims compares them with what the GatewayClass's status says: a feature
// cannot leave either list in silence.
var notClaimed = map[features.FeatureName]string{
	features.SupportGatewayInfrastructure: "nothing is created in the cluster for a Gateway, so there " +
		"is nothing that could carry its labels and annotations",
}

// mesh is about traffic between pods, which an edge never sees.
var mesh = features.SetsToNamesSet(features.MeshCoreFeatures, features.MeshExtendedFeatures)

// claimed are the features that Haflinger says it supports, sorted.
func claimed() []features.FeatureName {
	var names []features.FeatureName
	for name := range features.SetsToNamesSet(features.AllFeatures) {
		if _, left := notClaimed[name]; !left && !mesh.Has(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
