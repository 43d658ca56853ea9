package installation

import (
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"

	"assay/internal/limits"
	"assay/internal/tracing"

	"go.yaml.in/yaml/v4"
)

// Limits are rates by the name of their limit, each as "10/m burst 100" or "off". As a whole they may be "off".
type Limits map[string]string

// noLimits is how a configuration says that there are none at all.
const noLimits = "off"

// UnmarshalYAML reads "off" or the limits.
func (l *Limits) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode && n.Value == noLimits {
		*l = allOff()
		return nil
	}
	return n.Load((*map[string]string)(l))
}

// allOff turns every limit off.
func allOff() Limits {
	all := Limits{}
	for _, k := range limits.Catalogue() {
		all[string(k.Name)] = noLimits
	}
	return all
}

// rates are the limits in use, and the faults of those that are configured.
func (l Limits) rates() (rates map[limits.Name]limits.Rate, faults []error) {
	rates = limits.Defaults()
	for _, key := range slices.Sorted(maps.Keys(l)) {
		name := limits.Name(key)
		if _, known := rates[name]; !known {
			faults = append(faults, fmt.Errorf("limits.%s: there is no such limit; there are %s", key, limitNames()))
			continue
		}
		rate, err := limits.ParseRate(l[key])
		if err != nil {
			faults = append(faults, fmt.Errorf("limits.%s: %w", key, err))
			continue
		}
		rates[name] = rate
	}
	return rates, faults
}

func limitNames() string {
	var names []string
	for _, k := range limits.Catalogue() {
		names = append(names, string(k.Name))
	}
	return strings.Join(names, ", ")
}

// checkLimits reports the faults of limits and of the proxies that say who asks.
func (c *Config) checkLimits() []error {
	_, faults := c.Limits.rates()
	if _, err := limits.NewProxies(c.TrustedProxies, c.ForwardedHeader); err != nil {
		faults = append(faults, fmt.Errorf("trustedProxies: %w", err))
	}
	if _, err := c.MDM.proxies(); err != nil {
		faults = append(faults, fmt.Errorf("mdm.trustedProxies: %w", err))
	}
	return faults
}

// proxies are those that say who asks the MDM listener.
func (m MDM) proxies() (limits.Proxies, error) {
	if m.ForwardedHeader == "" {
		return limits.Proxies{}, nil
	}
	return limits.NewProxies(m.TrustedProxies, m.ForwardedHeader)
}

// newGate makes the gate of a server, which all its listeners share: whoever asks one of them has asked.
func (i *Installation) newGate(metrics *limits.Metrics, log *slog.Logger) *limits.Gate {
	rates, _ := i.Config.Limits.rates() // without faults: the configuration was checked
	return limits.New(limits.Options{Rates: rates, Metrics: metrics, Log: log, Now: i.now, Sleep: i.sleep})
}

// revealed gives the ACME server requests that come from their clients' addresses, whatever proxies are in front. A nil
// tracer traces none.
func (i *Installation) revealed(acme http.Handler, tracer *tracing.Tracer) (http.Handler, error) {
	proxies, err := limits.NewProxies(i.Config.TrustedProxies, i.Config.ForwardedHeader)
	if err != nil {
		return nil, &ConfigError{fmt.Errorf("trustedProxies: %w", err)}
	}
	revealed := proxies.Reveal(acme)
	if tracer == nil || len(i.Config.TrustedProxies) == 0 {
		return revealed, nil
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if proxies.Forwards(r) {
			r = r.WithContext(tracing.Behind(r.Context(), r.Header))
		}
		revealed.ServeHTTP(w, r)
	}), nil
}
