package installation

import (
	"strings"
	"testing"
	"time"

	"assay/internal/issuance"
)

func TestRetentionReadsWhatIsKept(t *testing.T) {
	const day = 24 * time.Hour
	for name, test := range map[string]struct {
		from Retention
		want func(*issuance.Retention)
		err  string
	}{
		"defaults":        {Retention{}, func(*issuance.Retention) {}, ""},
		"nothing refused": {Retention{Refused: Keep{Facts: "none"}}, func(r *issuance.Retention) { r.Refused = issuance.Keep{} }, ""},
		"facts only":      {Retention{Issued: Keep{Object: "none"}}, func(r *issuance.Retention) { r.Issued.Object = 0 }, ""},
		"full, then facts": {Retention{Issued: Keep{Object: "90d", Facts: "forever"}}, func(r *issuance.Retention) {
			r.Issued = issuance.Keep{Object: 90 * day, Facts: issuance.Forever}
		}, ""},
		"shorter facts":   {Retention{Held: Keep{Facts: "7d"}}, func(r *issuance.Retention) { r.Held = issuance.Keep{Object: 7 * day, Facts: 7 * day} }, ""},
		"objects outlive": {Retention{Held: Keep{Object: "9d", Facts: "7d"}}, nil, "retention.held: objects are kept longer"},
		"no time":         {Retention{Refused: Keep{Object: "soon"}}, nil, "retention.refused.object"},
		"negative":        {Retention{Refused: Keep{Object: "-1h"}}, nil, "not forever, none"},
	} {
		got, err := test.from.parse()
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%s: error %v", name, err)
			}
			continue
		}
		want := issuance.DefaultRetention()
		test.want(&want)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}
