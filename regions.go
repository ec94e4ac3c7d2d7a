package failover

import (
	"errors"
	"slices"
	"strings"
)

// This file knows the host names that Microsoft gives to organizations.

// isDataverse reports whether name, in lower case, is that of a Dataverse
// organization.
func isDataverse(name string) bool {
	_, ok := splitDataverse(name)
	return ok
}

// onPremises reports whether name, in lower case, is none that Microsoft gives.
func onPremises(name string) bool { return !isDataverse(name) && !isFinOps(name) }

// checkMicrosoftName returns why name, a valid host name in lower case, is one of
// Microsoft's own and not that of an organization, or nil.
func checkMicrosoftName(name string) error {
	if _, region := dataverseRegions[name]; region || isFinOps("x."+name) && !isFinOps(name) {
		return errors.New("does not name an organization: its label is missing")
	}
	d, ok := splitDataverse(name)
	if !ok {
		return nil
	}
	switch {
	case slices.Contains(reservedLabels[:], d.label):
		return errors.New("names a service of Microsoft, not an organization")
	case isScaleGroup(d.label):
		return errors.New("names a scale group of Microsoft, which serves many organizations; use the organization's own host")
	case strings.HasPrefix(d.label, "xn--"), strings.Contains(d.label, "_"):
		return errors.New("has an organization name with characters other than ASCII letters, digits and hyphens")
	}
	return nil
}

// isScaleGroup reports whether a label is that of a scale group, SITE--GROUP, such
// as by2--namcrmlivesg741: a site, and a group that is named after the region,
// the product and the number of the group.
func isScaleGroup(label string) bool {
	site, group, found := strings.Cut(label, "--")
	kind := strings.TrimRight(group, "0123456789")
	return found && site != "" && !strings.Contains(site, "-") && kind != group &&
		strings.Contains(kind, "crm") && strings.HasSuffix(kind, "sg")
}

// reservedLabels stand where an organization's name does and are services of
// Microsoft (discovery, the portal, the admin center). "api" alone is the form
// of a name that lacks the organization.
var reservedLabels = [...]string{"admin", "api", "dev", "disco", "globaldisco", "home", "port"}

// dataverseRegions tells for every region of Dataverse whether its
// organizations also have names with the label api.
//
// Sources: https://learn.microsoft.com/power-platform/admin/new-datacenter-regions
// and .../microsoft-dynamics-365-government; for the label api and the test
// rings the source of Microsoft's Dataverse ServiceClient.
var dataverseRegions = map[string]bool{
	"crm.dynamics.com":         true,  // North America
	"crm2.dynamics.com":        true,  // South America
	"crm3.dynamics.com":        true,  // Canada
	"crm4.dynamics.com":        true,  // Europe
	"crm5.dynamics.com":        true,  // Asia-Pacific
	"crm6.dynamics.com":        true,  // Oceania
	"crm7.dynamics.com":        true,  // Japan
	"crm8.dynamics.com":        true,  // India
	"crm9.dynamics.com":        true,  // US Government, GCC
	"crm10.dynamics.com":       false, // Microsoft's production test ring
	"crm11.dynamics.com":       true,  // United Kingdom
	"crm12.dynamics.com":       true,  // France
	"crm14.dynamics.com":       true,  // South Africa
	"crm15.dynamics.com":       true,  // United Arab Emirates
	"crm16.dynamics.com":       true,  // Germany
	"crm17.dynamics.com":       true,  // Switzerland
	"crm19.dynamics.com":       true,  // Norway
	"crm20.dynamics.com":       true,  // Singapore
	"crm21.dynamics.com":       true,  // Korea
	"crm22.dynamics.com":       true,  // Sweden
	"crm.appsplatform.us":      true,  // US Government, DoD
	"crm.dynamics-int.com":     false, // Microsoft's integration ring
	"crm.dynamics.cn":          true,  // China (21Vianet)
	"crm.microsoftdynamics.de": true,  // Germany, sovereign cloud (closed)
	"crm.microsoftdynamics.us": true,  // US Government, GCC High
}

// dataverseName is the name of a Dataverse host in its parts.
type dataverseName struct {
	label  string // the organization's, "--s" included
	api    bool
	region string
}

// splitDataverse splits a valid name in lower case. It is not ok if the name does
// not consist of one label, perhaps api, and a known region.
func splitDataverse(name string) (d dataverseName, ok bool) {
	d.label, d.region, _ = strings.Cut(name, ".")
	d.region, d.api = strings.CutPrefix(d.region, "api.")
	both, known := dataverseRegions[d.region]
	return d, known && (both || !d.api)
}

func (d dataverseName) String() string {
	if d.api {
		return d.label + ".api." + d.region
	}
	return d.label + "." + d.region
}

// finOpsSuffixes end the names of Finance and Operations environments, with
// one label or more (contoso.sandbox) before them.
//
// Source: https://learn.microsoft.com/dynamics365/fin-ops-core/dev-itpro/deployment/deployment-options-geo;
// for the last six public samples of Microsoft and others.
var finOpsSuffixes = [...]string{
	".operations.dynamics.com",
	".operations.ch.dynamics.com",
	".operations.eu.dynamics.com",
	".operations.fr.dynamics.com",
	".operations.no.dynamics.com",
	".operations.sa.dynamics.com",
	".operations.uae.dynamics.com",
	".operations.gov.microsoftdynamics.us",
	".operations.high.microsoftdynamics.us",
	".axcloud.dynamics.com",        // cloud-hosted development, older names
	".cloud.onebox.dynamics.com",   // development on a local machine
	".cloudax.dynamics.com",        // cloud-hosted development
	".operations.dynamics.cn",      // China (21Vianet)
	".sandbox.ax.dynamics.com",     // sandboxes, older names
	".operations.int.dynamics.com", // Microsoft's integration ring
}

func isFinOps(name string) bool {
	for _, suffix := range finOpsSuffixes {
		if len(name) > len(suffix) && strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return false
}
