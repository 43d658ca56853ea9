// Package lifetime reads and writes durations as people do who speak of certificates and codes: 90m, 24h,
// 30d. It refuses what is no whole number of days, and whatever time.ParseDuration refuses.
package lifetime

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

const day = 24 * time.Hour

// Parse reads a duration as people write it: 90m, 24h, 30d.
func Parse(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16) // 16 bits of days do not overflow
		d = time.Duration(n) * day
	}
	if err != nil {
		return 0, fmt.Errorf("%.60q is no duration such as 90m, 24h or 30d", text)
	}
	return d, nil
}

// Text writes a duration as Parse reads it, in the largest unit of which it is a whole
// number.
func Text(d time.Duration) string {
	for _, unit := range []struct {
		length time.Duration
		name   string
	}{{day, "d"}, {time.Hour, "h"}, {time.Minute, "m"}} {
		if d >= unit.length && d%unit.length == 0 {
			return strconv.FormatInt(int64(d/unit.length), 10) + unit.name
		}
	}
	return d.String()
}
