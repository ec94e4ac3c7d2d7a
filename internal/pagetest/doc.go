// Package pagetest tests the pages of package failover in a browser. It has no code
// of its own, and its tests skip where there is no Chromium.
package pagetest
