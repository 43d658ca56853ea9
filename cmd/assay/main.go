// Command assay is the identity service for managed devices: server, operator commands and a
// simulated device.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"assay/internal/hsm"
	"assay/internal/installation"

	"github.com/alecthomas/kong"
)

// Exit codes, as every command's help documents them.
const (
	exitDone   = 0 // done, or the answer is yes
	exitNo     = 1 // the answer is no: refused, rules broken, not found
	exitUsage  = 2 // wrong flags or unreadable input
	exitFailed = 3 // the work failed: database, network, file system
)

// exitError ends the program with a code; Err may be nil when all was said on standard output.
type exitError struct {
	Code int
	Err  error
}

func (e *exitError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit code %d", e.Code)
	}
	return e.Err.Error()
}

func (e *exitError) Unwrap() error { return e.Err }

// no reports that the answer is no; all has been said already.
func no() error { return &exitError{Code: exitNo} }

// noBecause reports that the answer is no, for a reason that is printed.
func noBecause(err error) error { return &exitError{Code: exitNo, Err: err} }

// usage reports input that cannot be used.
func usage(err error) error { return &exitError{Code: exitUsage, Err: err} }

// hinted is an error with one line of advice.
type hinted struct {
	err  error
	hint string
}

func (h *hinted) Error() string { return h.err.Error() }
func (h *hinted) Unwrap() error { return h.err }

// withHint adds advice that is printed under the error.
func withHint(err error, format string, args ...any) error {
	return &hinted{err: err, hint: fmt.Sprintf(format, args...)}
}

// terminal is where a command reads and writes, and the clock it uses: replaced in tests.
type terminal struct {
	In       io.Reader
	Out, Err io.Writer
	Now      func() time.Time
}

// globals are the flags of every command.
type globals struct {
	JSON bool `name:"json" help:"Print JSON for scripts; lists print one object a line."`
}

type cli struct {
	globals

	Demo     demoCommand     `cmd:"" group:"Try it:" help:"See the whole job on this machine, in seconds."`
	Simulate simulateCommand `cmd:"" group:"Try it:" help:"Let simulated devices enrol."`
	Bench    benchCommand    `cmd:"" group:"Try it:" help:"Measure what a certificate costs; kill and torment a server, and prove that nothing is lost."`

	Init      initCommand      `cmd:"" group:"Run a server:" help:"Make an installation."`
	Serve     serveCommand     `cmd:"" group:"Run a server:" help:"Run the server."`
	Migrate   migrateCommand   `cmd:"" group:"Run a server:" help:"Bring the schema of a PostgreSQL database up to date."`
	Copy      copyCommand      `cmd:"" group:"Run a server:" help:"Move an installation to another database: SQLite, PostgreSQL."`
	Issuer    issuerCommand    `cmd:"" group:"Run a server:" help:"Add, list and activate issuing CAs."`
	Token     tokenCommand     `cmd:"" group:"Run a server:" help:"Mint, list and revoke tokens of the admin API."`
	Inventory inventoryCommand `cmd:"" group:"Run a server:" help:"Keep the inventory in step with Apple Business or School Manager."`

	Backup  backupCommand  `cmd:"" group:"Run a server:" help:"Take an installation into one encrypted file; check such a file."`
	Restore restoreCommand `cmd:"" group:"Run a server:" help:"Make an installation of a backup again, or of a database that pg_restore brought back."`

	Check   checkCommand   `cmd:"" group:"Run a server:" help:"Prove over the whole database that nothing is lost, doubled or altered."`
	Opinion opinionCommand `cmd:"" group:"Run a server:" help:"Try the service outside that policies ask."`

	Credential  credentialCommand  `cmd:"" group:"Give devices identities:" help:"Write templates; give devices their credentials, renew and withdraw them."`
	Code        codeCommand        `cmd:"" group:"Give devices identities:" help:"Mint, list, show and revoke one-time codes."`
	Certificate certificateCommand `cmd:"" group:"Give devices identities:" help:"List, show and revoke certificates."`

	Policy   policyCommand   `cmd:"" group:"Decide who is trusted:" help:"Write, check and try the policies that decide."`
	Decision decisionCommand `cmd:"" group:"Decide who is trusted:" help:"See why a request was decided as it was; approve held devices."`

	Device      deviceCommand      `cmd:"" group:"Find out why:" help:"Import, list and show devices; say where they stand; show and erase what is stored."`
	Evidence    evidenceCommand    `cmd:"" group:"Find out why:" help:"List, show, verify again and export what devices proved themselves with."`
	Audit       auditCommand       `cmd:"" group:"Find out why:" help:"List what was done and refused; verify that nothing was changed."`
	Attestation attestationCommand `cmd:"" group:"Find out why:" help:"Inspect and verify attestation objects."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // who interrupts again waits for nothing
	code := run(ctx, os.Args[1:], &terminal{In: newInterruptible(ctx, os.Stdin), Out: os.Stdout, Err: os.Stderr, Now: time.Now})
	hsm.Close()
	os.Exit(code)
}

// run is the whole program: it parses the arguments, runs the command and returns the exit code.
func run(ctx context.Context, args []string, term *terminal) int {
	var c cli
	var after endings
	exited := -1
	parser, err := kong.New(&c,
		kong.Name("assay"),
		kong.Description("The identity service for managed devices."),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true, WrapUpperBound: 100}),
		kong.Writers(term.Out, term.Err),
		kong.Exit(func(code int) { exited = code }),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(term, &c.globals, &after),
	)
	if err != nil {
		fmt.Fprintln(term.Err, "assay:", err)
		return exitFailed
	}
	if len(args) == 0 { // whoever types only the name wants to know what there is
		_, _ = parser.Parse([]string{"--help"})
		return exitUsage
	}
	kctx, err := parser.Parse(args)
	if exited >= 0 {
		return exited
	}
	if err != nil {
		// A flag that may be left out has "" among its values.
		text := strings.Replace(err.Error(), `must be one of "",`, "must be one of ", 1)
		return report(term, usage(withHint(errors.New(text), "`%s --help` says more", commandOf(err))))
	}
	err = kctx.Run()
	return report(term, errors.Join(err, after.run()))
}

// commandOf is the command that a faulty command line names, as far as it can be told.
func commandOf(err error) string {
	parse, ok := errors.AsType[*kong.ParseError](err)
	if !ok || parse.Context.Selected() == nil {
		return "assay"
	}
	return parse.Context.Selected().FullPath()
}

// report prints an error with its hint and returns the exit code that it stands for.
func report(term *terminal, err error) int {
	if err == nil {
		return exitDone
	}
	code := exitFailed
	if e, ok := errors.AsType[*exitError](err); ok {
		code = e.Code
		if e.Err == nil {
			return code
		}
	} else if _, ok := errors.AsType[*installation.ConfigError](err); ok {
		code = exitUsage
	}
	if errors.Is(err, context.Canceled) { // whatever it was at, it gave no answer
		code = exitFailed
		fmt.Fprintln(term.Err, "assay: interrupted:", printableLines(err.Error()))
	} else {
		fmt.Fprintln(term.Err, "assay:", printableLines(err.Error()))
	}
	if h, ok := errors.AsType[*hinted](err); ok {
		fmt.Fprintln(term.Err, "hint:", printableLines(h.hint))
	}
	return code
}
