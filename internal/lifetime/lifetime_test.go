package lifetime_test

import (
	"testing"
	"time"

	"assay/internal/lifetime"
)

func TestLifetimesAreWrittenAsTheyAreRead(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"90m": 90 * time.Minute, "24h": 24 * time.Hour, "1h30m": 90 * time.Minute, "30d": 720 * time.Hour, "0d": 0, "0": 0, "-1h": -time.Hour,
		"65535d": 65535 * 24 * time.Hour,
	} {
		got, err := lifetime.Parse(text)
		if err != nil || got != want {
			t.Errorf("%s was read as %s, %v; want %s", text, got, err, want)
		}
		if again, err := lifetime.Parse(lifetime.Text(got)); err != nil || again != got {
			t.Errorf("%s was written as %s, which is %s, %v", got, lifetime.Text(got), again, err)
		}
	}
	for d, want := range map[time.Duration]string{48 * time.Hour: "2d", 25 * time.Hour: "25h", 61 * time.Minute: "61m", 90 * time.Second: "1m30s", 0: "0s"} {
		if got := lifetime.Text(d); got != want {
			t.Errorf("%s was written %s, want %s", d, got, want)
		}
	}
	for _, text := range []string{"", "d", "1.5d", "-1d", "+1d", " 1d", "1dd", "soon", "1h1d", "106752d", "99999999999999999999999d"} {
		if got, err := lifetime.Parse(text); err == nil {
			t.Errorf("%q was read as %s", text, got)
		}
	}
}
