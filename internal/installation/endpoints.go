package installation

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
)

// checkEndpoints reports the faults of the admin, mdm, push and profileSigning sections.
func (c *Config) checkEndpoints() (faults []error) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	for _, e := range []struct {
		key string
		Endpoint
	}{{"admin", c.Admin}, {"mdm", c.MDM.Endpoint}} {
		if err := e.check(); err != nil {
			fault("%s: %w", e.key, err)
		}
	}
	if c.MDM.Listen == "" && (len(c.MDM.CA) > 0 || c.MDM.Match != (MDMMatch{}) || len(c.MDM.TrustedProxies) > 0 || c.MDM.ForwardedHeader != "") {
		fault("mdm: listen is missing: without it no document with Authentication MDM is served")
	}
	if c.MDM.Listen != "" && len(c.MDM.CA) == 0 {
		fault("mdm.ca: at least one CA that issues MDM identities is needed")
	}
	if (c.ProfileSigning.Certificate == "") != (c.ProfileSigning.Key == "") {
		fault("profileSigning: certificate and key go together")
	}
	if err := c.Push.KMFDDM.check(); err != nil {
		fault("push.kmfddm: %w", err)
	}
	if c.Push.Enrollment != "" && c.Push.KMFDDM.URL == "" {
		fault("push.enrollment: nothing is pushed without push.kmfddm")
	}
	return faults
}

func (e Endpoint) check() error {
	if e.Listen == "" {
		if e.URL != "" {
			return errors.New("url without listen")
		}
		return nil
	}
	if _, _, err := net.SplitHostPort(e.Listen); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	if e.URL != "" {
		if err := checkURL(e.URL, "https"); err != nil {
			return fmt.Errorf("url: %w", err)
		}
	}
	_, err := baseURL(e.URL, e.Listen)
	return err
}

func (k KMFDDM) check() error {
	if k == (KMFDDM{}) {
		return nil
	}
	u, err := url.Parse(k.URL)
	if err != nil {
		return err
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("url: %q is no plain http or https URL", k.URL)
	}
	if k.KeyFile == "" {
		return errors.New("keyFile is missing: the file with KMFDDM's API key")
	}
	return nil
}

// endpointURL is the URL of an endpoint: the configured one, else the running server's, else the one
// of its address; "" where the endpoint does not listen.
func (i *Installation) endpointURL(e Endpoint, file string) (string, error) {
	if e.Listen == "" {
		return "", nil
	}
	if e.URL == "" {
		if running := runningURL(i.Dir, file); running != "" {
			return running, nil
		}
		if strings.HasSuffix(e.Listen, ":0") {
			return "", errors.New("the server's URLs are not known until it runs: start `assay serve` first")
		}
	}
	return baseURL(e.URL, e.Listen)
}
