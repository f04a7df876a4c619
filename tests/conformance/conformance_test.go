package conformance

import (
	"context"
	"flag"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/types"
	v1 "sigs.k8s.io/gateway-api/apis/v1"
	official "sigs.k8s.io/gateway-api/conformance"
	confv1 "sigs.k8s.io/gateway-api/conformance/apis/v1"
	"sigs.k8s.io/gateway-api/conformance/tests"
	"sigs.k8s.io/gateway-api/pkg/features"
)

// The suite's own flags (-gateway-class, -report-output, -version, -usable-address, …) are taken
// too; this one chooses several tests where the suite's -run-test takes one.
var only = flag.String("only", "", "names of the tests to run, separated by commas; all when empty")

// TestConformance runs the suite with everything that Haflinger claims.
func TestConformance(t *testing.T) {
	options := official.DefaultOptions(t)
	options.ConformanceProfiles = profiles
	options.SupportedFeatures = claimed()
	options.SkipTests = allBut(t, *only)
	options.Implementation = confv1.Implementation{
		Organization: "haflinger",
		Project:      "haflinger",
		URL:          "https://haflinger.dev",
		Version:      options.Implementation.Version,
		Contact:      []string{"https://haflinger.dev"},
	}
	official.RunConformanceWithOptions(t, options)
}

// TestClaims holds what the GatewayClass's status says against what is tried here.
func TestClaims(t *testing.T) {
	options := official.DefaultOptions(t)
	class := &v1.GatewayClass{}
	name := types.NamespacedName{Name: options.GatewayClassName}
	require.NoError(t, options.Client.Get(context.Background(), name, class))
	var said []features.FeatureName
	for _, feature := range class.Status.SupportedFeatures {
		said = append(said, features.FeatureName(feature.Name))
	}
	require.True(t, slices.IsSorted(said), "the status must be sorted, and says %v", said)
	require.Equal(t, claimed(), said, "tried here, and said by the GatewayClass's status")
}

// TestReasons fails for a feature that is left out without a reason, or that the suite does not
// know.
func TestReasons(t *testing.T) {
	known := features.SetsToNamesSet(features.AllFeatures)
	for name, reason := range notClaimed {
		require.True(t, known.Has(name), "the suite knows no feature %s", name)
		require.NotEmpty(t, reason, "%s is not claimed, and nobody says why", name)
		t.Logf("%s is not claimed: %s", name, reason)
	}
}

// allBut names every test of the suite but the chosen ones; none when all are chosen.
func allBut(t *testing.T, chosen string) []string {
	if chosen == "" {
		return nil
	}
	wanted := strings.Split(chosen, ",")
	var others []string
	for _, test := range tests.ConformanceTests {
		if i := slices.Index(wanted, test.ShortName); i >= 0 {
			wanted = slices.Delete(wanted, i, i+1)
		} else {
			others = append(others, test.ShortName)
		}
	}
	require.Empty(t, wanted, "the suite has no such tests")
	return others
}
