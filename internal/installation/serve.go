package installation

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"assay/attest"
	"assay/internal/admin"
	"assay/internal/delivery"
	"assay/internal/files"
	"assay/internal/inventory/abm"
	"assay/internal/issuance"
	"assay/internal/server"
	"assay/internal/tracing"
	"assay/policy"

	"golang.org/x/sys/unix"
)

// connectionLimits are those of the listeners. A slow or half-open client costs one connection for a bounded time.
type connectionLimits struct {
	connections    int           // at once; more wait
	header         time.Duration // until a request's header is there
	read           time.Duration // until a request's body is there
	write          time.Duration // until the reply is sent, from the end of the header
	idle           time.Duration // between requests: a device never pauses longer than 5 s
	shutdown       time.Duration // for requests in flight when the server is stopped
	maxHeaderBytes int
	streams        int // of one HTTP/2 connection at once
}

var defaultLimits = connectionLimits{
	connections: 4096,
	header:      5 * time.Second, read: 15 * time.Second, write: 30 * time.Second, idle: 10 * time.Second,
	shutdown: 15 * time.Second, maxHeaderBytes: 16 << 10, streams: 16,
}

// UpkeepInterval is how often periodic work is done. No request takes as long: a claim of this age is dead.
const UpkeepInterval = time.Minute

// ServeOptions says how to serve.
type ServeOptions struct {
	Listen string // overrides the configuration's
	Log    *slog.Logger
	// Upkeep is how often periodic work is done; claims of that age are dead. Default: UpkeepInterval. A shorter one
	// is for tests: a request that takes longer loses its claim, and its device gets no certificate.
	Upkeep time.Duration
	// Ready is called once the server accepts connections.
	Ready func(Running)
}

// Running describes a server that accepts connections.
type Running struct {
	BaseURL     string
	Directories map[string]string // directory URLs by name
	AdminURL    string            // "" without an admin listener
	MDMURL      string            // "" without an MDM listener
	MetricsURL  string            // "" without a metrics listener
	Warnings    []string
}

// Serve runs the server until the context ends, then finishes requests in flight. Only one server
// runs on a folder at a time; on a PostgreSQL database, any number does, each on a folder of its own with the
// same keys.
func (i *Installation) Serve(ctx context.Context, o ServeOptions) (err error) {
	unlock, err := Lock(i.Dir)
	if errors.Is(err, ErrServed) {
		return fmt.Errorf("serve %s: another server runs on it", i.Dir)
	} else if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	listen := o.Listen
	if listen == "" {
		listen = i.Config.Listen
	}
	measures := i.newMeasures(o.Log)
	tracer, err := i.newTracer(ctx, measures, o.Log)
	if err != nil {
		return err
	}
	defer tracer.Close(context.WithoutCancel(ctx))
	o.Log = tracer.Logger(o.Log)
	fronts := &fronts{limits: i.limits, log: o.Log, measures: measures, tracer: tracer}
	defer func() { err = errors.Join(err, fronts.close()) }()
	running := &Running{Directories: map[string]string{}}
	if err := i.openFronts(fronts, listen, running); err != nil {
		return err
	}
	policies, err := i.policies(ctx, o.Log)
	if err != nil {
		return err
	}
	key, err := i.sealingKey(ctx)
	if err != nil {
		return err
	}
	measures.watches(policies)
	acme, err := i.newServer(ctx, running, policies, measures, o.Log)
	if err != nil {
		return err
	}
	measures.serves(acme)
	lookForSecrets, hangUp, err := i.askOutside(ctx, acme, measures, o.Log)
	if err != nil {
		return err
	}
	defer hangUp()
	if !i.Store.Shared() {
		// The database is ours alone: every claim is of a server that is gone, whatever the clock says.
		if err := i.undoDeadClaims(ctx, i.now().AddDate(100, 0, 0), o.Log); err != nil {
			return err
		}
	}
	deliveries, err := i.serving(running, o.Log)
	if err != nil {
		return err
	}
	if deliveries.outbox != nil {
		deliveries.outbox.Metrics = measures.deliveries
	}
	syncs, err := i.newSyncs(o.Log)
	if err != nil {
		return err
	}
	if syncs != nil {
		defer syncs.Stop()
		measures.add(syncs.Metrics.Collectors()...)
	}
	if err := i.equip(fronts, acme, deliveries, syncs, o.Log); err != nil {
		return err
	}
	health := &health{store: i.Store, issuing: acme.CanIssue, now: i.now}
	if err := i.serveMetrics(fronts, health, running); err != nil {
		return err
	}
	if err := writeURLs(i.Dir, running); err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	looks := []func(context.Context){lookForSecrets}
	for _, l := range policies {
		looks = append(looks, func(ctx context.Context) { measures.policy(l.directory, l.refresh(ctx)) })
	}
	return i.run(ctx, fronts, acme, beside{deliveries, looks, syncs, key, health}, running, o)
}

// openFronts opens the listeners that are configured, the one for ACME first.
func (i *Installation) openFronts(fronts *fronts, listen string, running *Running) error {
	acmeFront, err := fronts.open("acme", listen, i.Config.URL)
	if err != nil {
		return err
	}
	running.BaseURL = acmeFront.url
	for _, e := range []struct {
		name string
		Endpoint
		url *string
	}{{"admin", i.Config.Admin, &running.AdminURL}, {"mdm", i.Config.MDM.Endpoint, &running.MDMURL}} {
		if e.Listen == "" {
			continue
		}
		f, err := fronts.open(e.name, e.Listen, e.URL)
		if err != nil {
			return err
		}
		*e.url = f.url
	}
	return nil
}

// equip gives every listener its handler and its TLS configuration.
func (i *Installation) equip(fronts *fronts, acme *server.Server, deliveries *deliveries, syncs *abm.Runner, log *slog.Logger) error {
	for _, f := range fronts.all {
		var err error
		if f.tls, err = i.tlsConfig(f.url, log); err != nil {
			return err
		}
		switch f.name {
		case "acme":
			f.handler, err = i.revealed(acme, fronts.tracer)
		case "admin":
			var api *admin.API
			if api, err = i.newAPI(deliveries, syncs, fronts.measures.admin, log); err == nil {
				f.handler = api.Handler()
			}
		case "mdm":
			f.tls.ClientAuth = tls.RequestClientCert // verified by the handler, so that a refusal names the device
			f.handler, err = i.mdmHandler(fronts.measures.deliveries, acme.Limits, log)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// beside is what a server works with beside requests.
type beside struct {
	deliveries *deliveries
	looks      []func(context.Context) // for files that changed
	syncs      *abm.Runner             // nil: there is no source to be in step with
	auditKey   ed25519.PrivateKey
	health     *health
}

// run serves until the context ends, with the periodic work beside it.
func (i *Installation) run(ctx context.Context, fronts *fronts, acme *server.Server, b beside, running *Running, o ServeOptions) error {
	for _, w := range running.Warnings {
		o.Log.Warn(w)
	}
	periodic, stopPeriodic := context.WithCancel(fronts.tracer.Context(ctx))
	turns := i.newTurns(cmp.Or(o.Upkeep, UpkeepInterval), o.Log)
	var working sync.WaitGroup
	working.Go(func() { i.upkeep(periodic, acme, turns, o.Log) })
	working.Go(func() { watchFiles(periodic, b.looks) })
	working.Go(func() { i.sealAudit(periodic, b.auditKey, turns, o.Log) })
	working.Go(func() { i.watchLists(periodic, o.Log) })
	// By itself: an MDM that is slow to take declarations must not hold up the rest.
	working.Go(func() {
		turns.periodically(periodic, "deliveries", func(ctx context.Context) error {
			return turns.take(ctx, "deliveries", func(ctx context.Context) error { return b.deliveries.work(ctx, i, o.Log) })
		})
	})
	if b.syncs != nil { // by itself: a sync may take minutes
		working.Go(func() {
			turns.periodically(periodic, "inventory", func(ctx context.Context) error { return turns.take(ctx, "inventory", b.syncs.RunDue) })
		})
	}
	failed := fronts.serve()
	o.Log.Info("serving", "url", running.BaseURL, "listen", fronts.all[0].listener.Addr().String(), "directories", slices.Sorted(maps.Keys(running.Directories)))
	for _, f := range fronts.all[1:] {
		o.Log.Info("serving "+f.name, "url", f.url, "listen", f.listener.Addr().String())
	}
	if o.Ready != nil {
		o.Ready(*running)
	}
	var err error
	select {
	case err = <-failed:
	case <-ctx.Done():
		b.health.stopping.Store(true)
		o.Log.Info("stopping: requests in flight are finished first")
		err = i.linger(failed)
	}
	err = errors.Join(err, fronts.shutdown(ctx))
	stopPeriodic()
	working.Wait()
	flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), i.limits.shutdown)
	defer cancel()
	return errors.Join(err, acme.FlushStrangers(flush), turns.end(flush))
}

// linger goes on serving for as long as the configuration has it, so that whoever balances load sees in
// /readyz that the server stops, and sends nobody any more. It ends early if a listener fails.
func (i *Installation) linger(failed <-chan error) error {
	if i.Config.ShutdownDelay == 0 {
		return nil
	}
	select {
	case err := <-failed:
		return err
	case <-time.After(i.Config.ShutdownDelay):
		return nil
	}
}

// newServer wires the ACME server from configuration and database.
func (i *Installation) newServer(ctx context.Context, running *Running, policies map[string]*livePolicy, measures *measures, log *slog.Logger) (*server.Server, error) {
	base := running.BaseURL
	issuers, active, err := i.issuers(ctx, base)
	if err != nil {
		return nil, err
	}
	roots, err := i.Roots()
	if err != nil {
		return nil, err
	}
	directories := map[string]*server.Directory{}
	for name, c := range i.Config.Directories {
		d := &server.Directory{
			Name: name, Profile: i.Config.Profiles[c.Profile], Profiles: i.Config.Profiles, Issuer: active, Roots: map[string][]attest.Root{},
			Identifiers: c.Identifiers, Terms: c.TermsOfService, Website: c.Website,
		}
		if c.Issuer != "" {
			d.Issuer = issuance.IssuerID(c.Issuer)
		}
		if live := policies[name]; live != nil {
			d.Policy = live.current.Load
			// The built-in policy asks the inventory, and what this one asks nobody can tell.
			if slices.ContainsFunc(c.Identifiers, func(k policy.IdentifierKind) bool { return k != policy.ByCode }) {
				running.Warnings = append(running.Warnings, fmt.Sprintf("directory %s takes serial numbers or UDIDs without a code: "+
					"ANY device that attests itself and passes the policy %s gets certificates there", name, c.Policy))
			}
		}
		for _, format := range c.Accept {
			d.Roots[format] = roots[format]
			for _, root := range roots[format] {
				if root.StandIn {
					d.StandIn = true
					running.Warnings = append(running.Warnings, fmt.Sprintf("directory %s accepts %s attestations of a STAND-IN authority (%s): "+
						"certificates prove nothing about real devices", name, format, root.Name))
				}
			}
		}
		directories[name] = d
		running.Directories[name] = server.DirectoryURL(base, name)
	}
	return server.New(server.Config{
		BaseURL: base, Directories: directories, Issuers: issuers, Shards: i.Config.Revocation.Shards,
		Documents: delivery.Handler(i.Store, log, i.now, measures.deliveries), Metrics: measures.acme,
		Limits: i.newGate(measures.limits, log),
		Store:  i.Store, Verifier: attest.NewVerifier(), Log: log, Now: i.now,
	})
}

// upkeep does the periodic work: CRLs, dead claims, clean-up, retention, partitions, and this server's counts of strangers' refusals.
func (i *Installation) upkeep(ctx context.Context, acme *server.Server, turns *turns, log *slog.Logger) {
	clean := &cleaning{installation: i, log: log}
	shared := func(ctx context.Context) error {
		return errors.Join(
			acme.RenewCRLs(ctx),
			i.undoDeadClaims(ctx, i.now().Add(-turns.every), log),
			clean.up(ctx),
			i.Store.MakeYears(ctx, i.now()),
		)
	}
	turns.periodically(ctx, "upkeep", func(ctx context.Context) error {
		return errors.Join(turns.take(ctx, "upkeep", shared), acme.FlushStrangers(ctx))
	})
}

// traced does some work in a trace of its own.
func traced(ctx context.Context, what string, work func(context.Context) error) (err error) {
	ctx, span := tracing.Work(ctx, what)
	defer span.End(&err)
	return work(ctx)
}

// newTracer makes what traces requests and periodic work; nil where nothing is to be traced.
func (i *Installation) newTracer(ctx context.Context, measures *measures, log *slog.Logger) (*tracing.Tracer, error) {
	if !i.Config.Tracing {
		return nil, nil
	}
	metrics := tracing.NewMetrics()
	tracer, err := tracing.Open(ctx, tracing.Options{Version: version(), Log: log, Metrics: metrics})
	if err != nil {
		return nil, &ConfigError{fmt.Errorf("tracing: %w", err)}
	}
	measures.add(metrics.Collectors()...)
	return tracer, nil
}

func (i *Installation) undoDeadClaims(ctx context.Context, before time.Time, log *slog.Logger) error {
	undone, err := i.Store.UndoDeadClaims(ctx, issuance.Call{Now: i.now(), From: "server"}, before)
	if undone > 0 {
		log.Warn("undid claims that a crash left behind: their codes are good again", "claims", undone)
	}
	return err
}

// ErrServed: a server runs on the folder.
var ErrServed = errors.New("a server runs on it")

// Lock takes the folder for one server, or for work that no server may be running beside (ErrServed if one
// does). It locks the data key, which a server cannot do without: a lock file could be deleted, and a second
// server started beside the first. The lock falls with the process, however it ends.
func Lock(dir string) (unlock func() error, err error) {
	f, err := os.OpenFile(dataKeyPath(dir), os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	whole := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &whole); err != nil {
		f.Close()
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
			return nil, fmt.Errorf("lock %s: %w", dir, ErrServed)
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	if err := forgetURLs(dir); err != nil { // of a server that was killed
		return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), f.Close())
	}
	return func() error { return errors.Join(forgetURLs(dir), f.Close()) }, nil
}

// writeURLs tells other processes, and people, where the server's listeners are.
func writeURLs(dir string, running *Running) error {
	var errs []error
	for _, f := range []struct{ name, url string }{
		{adminURLFile, running.AdminURL}, {mdmURLFile, running.MDMURL}, {urlFile, running.BaseURL}, // last: who waits for it finds the others
	} {
		if f.url != "" {
			errs = append(errs, os.WriteFile(filepath.Join(dir, f.name), []byte(f.url+"\n"), 0o600))
		}
	}
	return errors.Join(errs...)
}

func forgetURLs(dir string) error {
	for _, name := range []string{urlFile, adminURLFile, mdmURLFile} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// awaitInterval is how often AwaitServer looks.
const awaitInterval = 10 * time.Millisecond

// AwaitServer waits until a server runs on the folder, in whichever process, and returns its base URL.
func (i *Installation) AwaitServer(ctx context.Context) (baseURL string, err error) {
	ticker := time.NewTicker(awaitInterval)
	defer ticker.Stop()
	for {
		if url := runningURL(i.Dir, urlFile); url != "" {
			return url, nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("wait for a server on %s: %w", i.Dir, ctx.Err())
		case <-ticker.C:
		}
	}
}

// runningURL is a URL of the server that runs on the folder, from one of its URL files; "" if none
// runs. Asking does not take the lock.
func runningURL(dir, file string) string {
	f, err := files.Open(dataKeyPath(dir))
	if err != nil {
		return ""
	}
	defer f.Close()
	held := unix.Flock_t{Type: unix.F_RDLCK}
	if unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &held) != nil || held.Type == unix.F_UNLCK {
		return ""
	}
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return "" // it is about to start or to stop
	}
	return strings.TrimSpace(string(data))
}
