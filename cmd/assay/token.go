package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"assay/internal/admin"
	"assay/internal/installation"
	"assay/internal/issuance"
)

type tokenCommand struct {
	Mint   tokenMint   `cmd:"" help:"Make a token for the admin API."`
	List   tokenList   `cmd:"" help:"List tokens."`
	Revoke tokenRevoke `cmd:"" help:"Revoke a token."`
}

// tokenLine is a token as lists show it.
type tokenLine struct {
	ID         string   `json:"id"`
	Name       string   `json:"name"`
	Status     string   `json:"status"` // live, expired or revoked
	Scopes     []string `json:"scopes"`
	CreatedAt  string   `json:"createdAt"`
	ExpiresAt  string   `json:"expiresAt"`
	RevokedAt  string   `json:"revokedAt,omitempty"`
	LastUsedAt string   `json:"lastUsedAt,omitempty"`
}

func tokenLineOf(t issuance.Token, now time.Time) tokenLine {
	status := "live"
	switch {
	case !t.RevokedAt.IsZero():
		status = "revoked"
	case !t.LiveAt(now):
		status = "expired"
	}
	return tokenLine{ID: string(t.ID), Name: t.Name, Status: status, Scopes: t.Scopes, CreatedAt: rfc3339(t.CreatedAt),
		ExpiresAt: rfc3339(t.ExpiresAt), RevokedAt: rfc3339(t.RevokedAt), LastUsedAt: rfc3339(t.LastUsedAt)}
}

type tokenMint struct {
	Dir     string       `required:"" placeholder:"DIR" help:"The installation's folder."`
	Name    string       `required:"" placeholder:"NAME" help:"What it is for, for people: ci, mdm."`
	Scope   []string     `required:"" placeholder:"SCOPE" help:"What it opens, with commas between."`
	Expires lifetimeFlag `default:"90d" help:"How long it works, e.g. 90d."`
	Output  string       `short:"o" placeholder:"FILE" help:"Write it into this new file, for its owner only, instead of printing it."`
}

func (tokenMint) Help() string {
	var scopes strings.Builder
	for _, scope := range admin.Scopes() {
		fmt.Fprintf(&scopes, "  %-18s  %s\n", scope, scope.Meaning())
	}
	return `A token is shown once: only its hash is stored. Tokens are made on the installation's folder only: one that
could make others could not be taken back.

Scopes:
` + scopes.String() + `
Examples:
  assay token mint --dir ./a --name ci --scope credentials:write,devices:read --expires 90d -o ci.token
  assay credential list --server https://id.example.com:8444 --token-file ci.token

Exit codes: 0 minted; 2 wrong flags, or the file exists; 3 failed.`
}

func (c *tokenMint) Run(ctx context.Context, term *terminal, g *globals) error {
	scopes, err := admin.ParseScopes(c.Scope)
	if err != nil {
		return usage(err)
	}
	i, err := installation.Open(ctx, c.Dir, term.Now)
	if err != nil {
		return err
	}
	defer i.Close()
	value, hash, err := admin.NewToken(rand.Reader)
	if err != nil {
		return err
	}
	if c.Output != "" { // before the token is: one that nobody has would live on
		if err := writeNewFile(c.Output, []byte(value+"\n"), 0o600); errors.Is(err, fs.ErrExist) {
			return usage(fmt.Errorf("%s exists; nothing was made", c.Output))
		} else if err != nil {
			return fmt.Errorf("write token: %w", err)
		}
	}
	now := term.Now()
	token, err := i.Store.AddToken(ctx, issuance.Call{Now: now, From: operator()},
		issuance.Token{Name: c.Name, Scopes: scopes, ExpiresAt: now.Add(time.Duration(c.Expires))}, hash)
	if err != nil && c.Output != "" {
		return errors.Join(err, os.Remove(c.Output))
	} else if err != nil {
		return err
	}
	if g.JSON {
		if c.Output != "" {
			value = ""
		}
		return writeJSON(term.Out, struct {
			Token string `json:"token,omitempty"`
			File  string `json:"file,omitempty"`
			tokenLine
		}{value, c.Output, tokenLineOf(token, now)})
	}
	if c.Output == "" {
		fmt.Fprintln(term.Out, value)
		fmt.Fprintf(term.Err, "%s (%s), until %s; it is not shown again\n", token.ID, strings.Join(scopes, " "), rfc3339(token.ExpiresAt))
		return nil
	}
	fmt.Fprintf(term.Out, "Wrote %s: %s (%s), until %s\n", c.Output, token.ID, strings.Join(scopes, " "), rfc3339(token.ExpiresAt))
	return nil
}

type tokenList struct {
	Dir string `required:"" placeholder:"DIR" help:"The installation's folder."`
}

func (tokenList) Help() string {
	return `Oldest first. The tokens themselves are not stored and so not shown.

Example:
  assay token list --dir ./a

Exit codes: 0 listed; 2 wrong flags; 3 failed.`
}

func (c *tokenList) Run(ctx context.Context, term *terminal, g *globals) error {
	i, err := installation.Open(ctx, c.Dir, term.Now)
	if err != nil {
		return err
	}
	defer i.Close()
	table := newTable(term.Out, "tokens", "ID", "NAME", "STATUS", "EXPIRES", "LAST USED", "SCOPES")
	for token, err := range i.Store.Tokens(ctx, issuance.Page{}) {
		if err != nil {
			return err
		}
		line := tokenLineOf(token, term.Now())
		if g.JSON {
			if err := writeJSON(term.Out, line); err != nil {
				return err
			}
			continue
		}
		table.row(line.ID, line.Name, line.Status, line.ExpiresAt, cmp.Or(line.LastUsedAt, "never"), strings.Join(line.Scopes, " "))
	}
	if g.JSON {
		return nil
	}
	return table.flush()
}

type tokenRevoke struct {
	Dir   string `required:"" placeholder:"DIR" help:"The installation's folder."`
	Token string `arg:"" help:"Its id (token_…)."`
}

func (tokenRevoke) Help() string {
	return `Revokes a token: the running server refuses it from the next request on. Tokens are revoked on the
installation's folder only, so that no token can shut out the others.

Example:
  assay token revoke --dir ./a token_06e3…

Exit codes: 0 revoked; 1 there is no such token, or it is revoked already; 2 wrong flags; 3 failed.`
}

func (c *tokenRevoke) Run(ctx context.Context, term *terminal, g *globals) error {
	i, err := installation.Open(ctx, c.Dir, term.Now)
	if err != nil {
		return err
	}
	defer i.Close()
	token, err := i.Store.RevokeToken(ctx, issuance.Call{Now: term.Now(), From: operator()}, issuance.TokenID(c.Token))
	switch {
	case errors.Is(err, issuance.ErrNotFound):
		return noBecause(withHint(errors.New("there is no such token"), "`assay token list` shows the ids of all"))
	case errors.Is(err, issuance.ErrConflict):
		return noBecause(fmt.Errorf("token %s is revoked already", c.Token))
	case err != nil:
		return err
	}
	if g.JSON {
		return writeJSON(term.Out, tokenLineOf(token, term.Now()))
	}
	sayf(term.Out, "Revoked %s (%s)\n", token.ID, token.Name)
	return nil
}
