package answer

import (
	"strconv"
	"strings"
	"time"
)

// MaxRetryAfter is the longest delay that a fault reports: one mistaken header must not stop a
// caller for a day.
const MaxRetryAfter = 5 * time.Minute

// Seconds returns n seconds, limited to 0 and MaxRetryAfter.
func Seconds(n float64) time.Duration {
	return time.Duration(min(max(n, 0), MaxRetryAfter.Seconds()) * float64(time.Second))
}

// milliseconds reads the RetryAfter of WS-Addressing, an unsigned long.
func milliseconds(s string) time.Duration {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0
	}
	return Seconds(float64(n) / 1000)
}

// xsDuration reads an xs:duration ("PT5M1.5S") or a .NET TimeSpan ("00:05:01"). It returns 0 for
// anything else, and for years and months, which have no fixed length and do not occur.
func xsDuration(s string) time.Duration {
	if strings.ContainsFunc(s, func(r rune) bool { return !strings.ContainsRune("0123456789.:PTDHMS", r) }) {
		return 0 // a sign, an exponent, NaN
	}
	if strings.Contains(s, ":") {
		return timeSpan(s)
	}
	date, clock, _ := strings.Cut(strings.TrimPrefix(s, "P"), "T")
	if days, ok := strings.CutSuffix(date, "D"); ok {
		switch n, err := strconv.Atoi(days); {
		case err != nil:
			return 0
		case n > 0:
			return MaxRetryAfter // whatever the time of day
		}
	} else if date != "" {
		return 0
	}
	d, _ := time.ParseDuration(strings.ToLower(clock)) // the same grammar in lower case
	return min(d, MaxRetryAfter)
}

// timeSpan reads "[d.]hh:mm:ss[.fffffff]".
func timeSpan(s string) time.Duration {
	parts := strings.Split(s, ":")
	if len(parts) != 3 || strings.ContainsAny(s, "PTDHMS") {
		return 0
	}
	days, hours, ok := strings.Cut(parts[0], ".")
	if !ok {
		days, hours = "0", parts[0]
	}
	return xsDuration("P" + days + "DT" + hours + "H" + parts[1] + "M" + parts[2] + "S")
}
