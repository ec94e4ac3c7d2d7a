package sharedtest

import "time"

// RuleNames returns the names of all rules.
func RuleNames() (names []string) {
	for _, r := range rules {
		names = append(names, r.name)
	}
	return names
}

// SetPatience makes rules fail sooner.
func SetPatience(d time.Duration) { patience = d }
