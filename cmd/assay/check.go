package main

import (
	"context"
	"fmt"
	"path/filepath"

	"assay/internal/installation"
	"assay/internal/integrity"
	"assay/internal/store"
)

type checkCommand struct {
	Dir string `required:"" placeholder:"DIR" help:"The installation's folder."`
}

func (checkCommand) Help() string {
	return `Reads the whole database, beside a running server or without one, and proves what must be true of it: no code has
two certificates, every certificate verifies and agrees with its row, every reserved serial is accounted for,
every order is in a legal state, CRLs name exactly what is revoked, the audit is as it was sealed. Each fault is
printed with its rule and its row; docs/reliability.md lists the rules. It changes nothing.

After a crash, start the server first: it abandons what was being issued. What is reserved for more than five
minutes counts as a fault.

Examples:
  assay check --dir ./a
  assay check --dir ./a --json

Exit codes: 0 all is as it must be; 1 something is not; 2 wrong flags; 3 failed.`
}

// keptFaults is how many faults are printed: where there are more, something greater is wrong.
const keptFaults = 1000

// checkedDatabase is what checking a database came to.
type checkedDatabase struct {
	integrity.Counts
	FaultCount int               `json:"faultCount"`
	Faults     []integrity.Fault `json:"faults"` // the first keptFaults of them
}

func (c *checkCommand) Run(ctx context.Context, term *terminal, g *globals) error {
	if err := checkable(ctx, c.Dir); err != nil {
		return err
	}
	i, err := installation.Open(ctx, c.Dir, term.Now)
	if err != nil {
		return err
	}
	defer i.Close()
	progress := newSyncProgress(term, g)
	checked, err := checkDatabase(ctx, i, term, progress.integrity)
	progress.end()
	if err != nil {
		return err
	}
	if g.JSON {
		if err := writeJSON(term.Out, checked); err != nil {
			return err
		}
	} else {
		checked.print(term)
	}
	if checked.FaultCount > 0 {
		return no()
	}
	return nil
}

// checkable refuses a file that is damaged, and one that opening would change.
func checkable(ctx context.Context, dir string) error {
	config, err := installation.LoadConfig(dir)
	if err != nil { // it is no installation
		return err
	}
	if store.IsPostgres(config.Database) { // opening it changes nothing, and refuses an older schema
		return nil
	}
	found, err := store.Describe(ctx, filepath.Join(dir, installation.DatabaseFile))
	if err != nil {
		return err
	}
	newest, err := store.SupportedSchema()
	if err != nil {
		return err
	}
	if found.Schema < newest {
		return withHint(fmt.Errorf("the database has schema version %d, and this program checks version %d only", found.Schema, newest),
			"check it with the program that served it, or let this one serve it first")
	}
	return nil
}

// checkDatabase holds an installation's database to every rule.
func checkDatabase(ctx context.Context, i *installation.Installation, term *terminal, progress func(integrity.Counts)) (*checkedDatabase, error) {
	key, err := i.AuditKey()
	if err != nil {
		return nil, err
	}
	checked := &checkedDatabase{Faults: []integrity.Fault{}}
	checked.Counts, err = integrity.Check(ctx, i.Store, integrity.Options{
		Now: term.Now, AuditKey: key, Progress: progress,
		Found: func(f integrity.Fault) {
			if checked.FaultCount++; len(checked.Faults) < keptFaults {
				checked.Faults = append(checked.Faults, f)
			}
		},
	})
	return checked, err
}

func (d *checkedDatabase) print(term *terminal) {
	for _, f := range d.Faults {
		sayf(term.Out, "  FAULT  %s  %s  %s\n", f.Rule, f.Of, f.What)
	}
	if more := d.FaultCount - len(d.Faults); more > 0 {
		sayf(term.Out, "  and %d more\n", more)
	}
	sayf(term.Out, "%s, %s, %s, %s, %s under %s: %s\n", counted(d.Certificates, "certificate"), counted(d.Orders, "order"), counted(d.Codes, "code"),
		counted(d.CRLs, "CRL"), counted(d.Sealed, "audit row"), counted(d.Seals, "seal"), counted(d.FaultCount, "fault"))
	if d.PutAway > 0 {
		sayf(term.Out, "%s that certificates rest on not checked: of years that were detached\n", counted(d.PutAway, "row"))
	}
	if d.Unsealed > 0 {
		sayf(term.Out, "%s not sealed yet: a running server seals them within five seconds\n", counted(d.Unsealed, "audit row"))
	}
}

// integrity shows how far a check is.
func (p *syncProgress) integrity(at integrity.Counts) {
	p.say(fmt.Sprintf("%d certificates, %d orders, %d codes, %d audit rows checked so far", at.Certificates, at.Orders, at.Codes, at.Sealed))
}
