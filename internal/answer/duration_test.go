package answer

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestXSDuration(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]time.Duration{
		"PT30S": 30 * time.Second, "PT2M3S": 123 * time.Second, "PT1.5S": 1500 * time.Millisecond, "PT4M59.9S": 299900 * time.Millisecond,
		"PT5M1S": 5 * time.Minute, "PT1H": 5 * time.Minute, "P1D": 5 * time.Minute, "P1DT2H": 5 * time.Minute, "P0D": 0,
		"00:00:30": 30 * time.Second, "00:02:03.5": 123500 * time.Millisecond, "1.00:00:00": 5 * time.Minute, "0.00:00:07": 7 * time.Second,
		"": 0, "P": 0, "PT": 0, "P1Y": 0, "-PT5S": 0, "PT-5S": 0, "5": 0, "00:30": 0, "00:NaN:01": 0, "::": 0, "x": 0, "1e9:0:0": 0,
		"PT99999999999999999999H": 0, "99999999999999999999:00:00": 0, "P99999999999999999999D": 0, "99999999999999999999.00:00:00": 0,
		"P0DT30S": 30 * time.Second, "P00DT30S": 30 * time.Second, "P2DT30S": 5 * time.Minute, "P5T3S": 0, "P1MT3S": 0, "PTDT3S": 0, "PT3": 0, "PDT3S": 0,
		"0.05:00:01": 5 * time.Minute, "0.00:04:59.5": 299500 * time.Millisecond, "00:04:60": 5 * time.Minute, "00:00:1:0": 0, "1H2:00:00": 0, ".00:00:01": 0, "00.:00:01": 0, "00:00:01P": 0,
	} {
		assert.Equal(t, want, xsDuration(in), in)
	}
}

func TestMilliseconds(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]time.Duration{"1500": 1500 * time.Millisecond, "0": 0, "": 0, "-1": 0, "x": 0, "99999999999999999999": 0, "1": time.Millisecond, "299999": 299999 * time.Millisecond, "300001": 5 * time.Minute} {
		assert.Equal(t, want, milliseconds(in), in)
	}
}
