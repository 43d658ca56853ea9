package installation

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"assay/internal/files"
	"assay/internal/inventory/abm"
	"assay/internal/lifetime"
	"assay/internal/tracing"
)

// How often the inventory may be synced: every listing costs Apple's service a request for each thousand
// devices, and how many it allows is not published.
const (
	defaultSyncEvery = time.Hour
	minSyncEvery     = 5 * time.Minute
	maxSyncEvery     = 30 * 24 * time.Hour
)

// AppleBusinessManager is an API account in Apple Business or Apple School Manager.
type AppleBusinessManager struct {
	// ClientID and KeyID are the account's, as Apple shows them.
	ClientID string `yaml:"clientID,omitempty"`
	KeyID    string `yaml:"keyID,omitempty"`
	// KeyFile is its private key, PEM as Apple hands it out, readable by its owner only.
	KeyFile string `yaml:"keyFile,omitempty"`
	// API is business or school. Default: business.
	API abm.API `yaml:"api,omitempty"`
	// Every is how often the running server syncs, from 5m to 30d. Default: 1h.
	Every string `yaml:"every,omitempty"`
	// URL and TokenURL are a stand-in's, https or http on loopback. Default: Apple's.
	URL      string `yaml:"url,omitempty"`
	TokenURL string `yaml:"tokenURL,omitempty"`
}

// every is how often the running server syncs.
func (a *AppleBusinessManager) every() (time.Duration, error) {
	if a.Every == "" {
		return defaultSyncEvery, nil
	}
	every, err := lifetime.Parse(a.Every)
	if err != nil {
		return 0, err
	}
	if every < minSyncEvery || every > maxSyncEvery {
		return 0, fmt.Errorf("%s is not between %s and %s", a.Every, lifetime.Text(minSyncEvery), lifetime.Text(maxSyncEvery))
	}
	return every, nil
}

// check reports what is wrong with the account, but for the key: that is opened where it is used.
func (a *AppleBusinessManager) check() (faults []error) {
	if *a == (AppleBusinessManager{}) {
		return nil
	}
	fault := func(err error) { faults = append(faults, fmt.Errorf("inventory.appleBusinessManager: %w", err)) }
	if a.API == "" {
		a.API = abm.Business
	}
	if a.ClientID == "" || a.KeyID == "" || a.KeyFile == "" {
		fault(errors.New("clientID, keyID and keyFile go together"))
	} else if err := abm.CheckAccount(a.API, a.ClientID, a.KeyID); err != nil {
		fault(err)
	}
	if _, err := a.every(); err != nil {
		fault(fmt.Errorf("every: %w", err))
	}
	if (a.URL == "") != (a.TokenURL == "") {
		fault(errors.New("url and tokenURL go together: both are a stand-in's, or both Apple's"))
	}
	for _, address := range []string{a.URL, a.TokenURL} {
		if address == "" {
			continue
		}
		if err := abm.CheckURL(address); err != nil {
			fault(err)
		}
	}
	return faults
}

// newSyncs makes what keeps the inventory in step; nil where nothing is configured.
func (i *Installation) newSyncs(log *slog.Logger) (*abm.Runner, error) {
	a := &i.Config.Inventory.AppleBusinessManager
	if a.ClientID == "" {
		return nil, nil
	}
	data, err := files.ReadSecret(within(i.Dir, a.KeyFile), files.MaxPEM) // with it, anybody reads (and with a mightier account, reassigns) the organization's devices
	if err != nil {
		return nil, &ConfigError{fmt.Errorf("inventory.appleBusinessManager.keyFile: %w", err)}
	}
	key, err := abm.ParseKey(data)
	if err != nil {
		return nil, &ConfigError{fmt.Errorf("inventory.appleBusinessManager.keyFile: %w", err)}
	}
	every, err := a.every()
	if err != nil {
		return nil, &ConfigError{err}
	}
	client, err := abm.New(abm.Config{
		API: a.API, ClientID: a.ClientID, KeyID: a.KeyID, Key: key, URL: a.URL, TokenURL: a.TokenURL, Now: i.now,
		Transport: tracing.Transport("apple", nil),
	})
	if err != nil {
		return nil, &ConfigError{err}
	}
	return abm.NewRunner(abm.Syncer{Client: client, Store: i.Store, Now: i.now}, every, log), nil
}
