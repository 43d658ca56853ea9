package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"runtime/pprof"
	"time"

	"assay/internal/installation"
)

// gcPercent trades memory for processor time: the server keeps little, so its heap stays within some
// ten megabytes all the same, and it collects a quarter as often.
const gcPercent = 400

type serveCommand struct {
	Dir      string `required:"" placeholder:"DIR" help:"The installation's folder."`
	Listen   string `placeholder:"HOST:PORT" help:"Address to listen on. Default: the configuration's."`
	LogLevel string `enum:"debug,info,warn,error" default:"info" help:"Least severe log line that is written (${enum})."`

	CPUProfile string        `name:"cpu-profile" hidden:"" placeholder:"FILE" help:"Write a CPU profile until the server stops."`
	Upkeep     time.Duration `hidden:"" default:"1m" help:"How often periodic work is done; shorter for tests."`
}

func (serveCommand) Help() string {
	return `Serves until it is told to stop (SIGTERM, SIGINT); requests in flight are finished first.
Log lines go to standard error, as text or with --json as JSON.
The environment variable GOGC (Go's garbage collection percentage) is respected; without it 400 is used.

Example:
  assay serve --dir /var/lib/assay

Exit codes: 0 stopped in order; 2 wrong flags; 3 could not serve.`
}

func (c *serveCommand) Run(ctx context.Context, term *terminal, g *globals) error {
	if c.Upkeep < time.Second || c.Upkeep > installation.UpkeepInterval {
		return usage(fmt.Errorf("--upkeep is between 1s and %s", installation.UpkeepInterval))
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return usage(err)
	}
	options := &slog.HandlerOptions{Level: level}
	var handler slog.Handler = slog.NewTextHandler(term.Err, options)
	if g.JSON {
		handler = slog.NewJSONHandler(term.Err, options)
	}
	i, err := installation.Open(ctx, c.Dir, term.Now)
	if err != nil {
		return err
	}
	defer i.Close()
	if c.CPUProfile != "" {
		file, err := os.Create(c.CPUProfile)
		if err != nil {
			return usage(err)
		}
		defer file.Close()
		if err := pprof.StartCPUProfile(file); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	return i.Serve(ctx, installation.ServeOptions{Listen: c.Listen, Log: slog.New(handler), Upkeep: c.Upkeep})
}
