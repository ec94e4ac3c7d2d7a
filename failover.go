// Package failover moves the traffic of a Dynamics 365 organization to its
// alternate endpoint when Microsoft fails the organization over, and back.
package failover

// Endpoint is one of the two sides an organization can be served from.
type Endpoint uint8

const (
	// Primary is the endpoint in the organization's own region.
	Primary Endpoint = iota
	// Alternate is the endpoint in the disaster-recovery region.
	Alternate
)

// String returns "primary" or "alternate".
func (e Endpoint) String() string {
	if e == Alternate {
		return "alternate"
	}
	return "primary"
}

// other returns the opposite endpoint.
func (e Endpoint) other() Endpoint { return e ^ 1 }
