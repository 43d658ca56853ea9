package main

import (
	"context"
	"errors"
	"fmt"

	"assay/internal/installation"
	"assay/internal/store"
)

type migrateCommand struct {
	Dir      string `placeholder:"DIR" help:"The installation whose database it is."`
	Database string `placeholder:"URL" help:"The database, instead of --dir (postgres://…)."`
	DryRun   bool   `help:"Say what would be done, and change nothing."`
}

func (migrateCommand) Help() string {
	return `A PostgreSQL database is shared by servers that are upgraded one after another, so none of them changes
its schema by itself. Run this with the new program before the first new server starts: servers of the version
before go on meanwhile. A database that a still newer program wrote is refused.

It lists the tables that lie in partitions by year, and makes partitions that are missing (the servers do that, too,
well ahead).

A SQLite database needs none of this: the server that opens it brings it up to date, and keeps a copy.

Examples:
  assay migrate --dir /var/lib/assay --dry-run
  assay migrate --dir /var/lib/assay
  assay migrate --database postgres://assay@db.example.com/assay

Exit codes: 0 it is up to date; 1 with --dry-run: it is not; 2 wrong flags; 3 failed.`
}

// migrationJSON is the command's answer for scripts.
type migrationJSON struct {
	From   int64    `json:"from"`
	To     int64    `json:"to"`
	Steps  []string `json:"steps"`
	Notes  []string `json:"notes"`
	DryRun bool     `json:"dryRun"`

	Years []store.Year `json:"years"`
}

func (c *migrateCommand) Run(ctx context.Context, term *terminal, g *globals) error {
	location := c.Database
	if location == "" {
		if c.Dir == "" {
			return usage(errors.New("missing flags: --dir=DIR or --database=URL"))
		}
		config, err := installation.LoadConfig(c.Dir)
		if err != nil {
			return err
		}
		if location = config.Database; location == "" {
			return usage(fmt.Errorf("%s keeps its database in a file, which the server brings up to date by itself", c.Dir))
		}
	}
	if !store.IsPostgres(location) {
		return usage(errors.New("--database is no URL of a PostgreSQL database: it is written like postgres://assay@db.example.com/assay"))
	}
	m, err := store.Migrate(ctx, location, c.DryRun)
	if err != nil {
		return err
	}
	pending := c.DryRun && len(m.Steps) > 0
	if g.JSON {
		err = writeJSON(term.Out, migrationJSON{From: m.From, To: m.To, Steps: append([]string{}, m.Steps...), Notes: append([]string{}, m.Notes...), DryRun: c.DryRun,
			Years: append([]store.Year{}, m.Years...)})
	} else {
		describeMigration(term, m, c.DryRun)
	}
	if err == nil && pending {
		return no()
	}
	return err
}

func describeMigration(term *terminal, m store.Migration, dry bool) {
	switch {
	case len(m.Steps) == 0:
		fmt.Fprintf(term.Out, "The schema is up to date: version %d\n", m.To)
	case dry:
		fmt.Fprintf(term.Out, "The schema would go from version %d to %d:\n", m.From, m.To)
	default:
		fmt.Fprintf(term.Out, "The schema went from version %d to %d:\n", m.From, m.To)
	}
	for _, step := range m.Steps {
		fmt.Fprintf(term.Out, "  %s\n", step)
	}
	if dry {
		for _, note := range m.Notes {
			fmt.Fprintln(term.Out, note)
		}
	}
	for _, y := range m.Years {
		fmt.Fprintf(term.Out, "  %-15s %-8s %10d rows %8d MB  %s\n", y.Table, y.Year, y.Rows, y.Bytes>>20, y.Since)
	}
}
