package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"

	"assay/internal/ca"
	"assay/internal/installation"
	"assay/internal/issuance"
)

type issuerCommand struct {
	Add      issuerAdd      `cmd:"" help:"Put an issuing CA into service."`
	List     issuerList     `cmd:"" help:"List issuing CAs."`
	Activate issuerActivate `cmd:"" help:"Choose the issuing CA for new certificates."`
}

// issuerLine is an issuing CA as lists show it.
type issuerLine struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	Active   bool   `json:"active"`
	Subject  string `json:"subject"`
	NotAfter string `json:"notAfter"`
	Key      string `json:"key"`
}

func issuerLineOf(i issuance.Issuer) (issuerLine, error) {
	cert, err := x509.ParseCertificate(i.Chain[0])
	if err != nil {
		return issuerLine{}, fmt.Errorf("read certificate of %s: %w", i.ID, err)
	}
	return issuerLine{ID: string(i.ID), Name: i.Name, Active: i.Active, Subject: cert.Subject.String(), NotAfter: rfc3339(cert.NotAfter), Key: i.Key}, nil
}

type issuerAdd struct {
	Dir         string `required:"" placeholder:"DIR" help:"The installation's folder."`
	Certificate string `required:"" placeholder:"FILE" help:"PEM chain, issuing certificate first; a root at its end is left out."`
	Key         string `required:"" placeholder:"URI" help:"Its key: file:PATH (relative to DIR), or pkcs11:… in a hardware module."`
	Name        string `help:"Name for lists. Default: the certificate's subject."`
	Activate    bool   `help:"Sign new certificates with it."`
}

func (issuerAdd) Help() string {
	return `A running server uses it after a restart; certificates keep naming the issuer that signed them.

Example:
  assay issuer add --dir ./a --certificate signed.pem --key file:keys/issuing.key --activate
  assay issuer add --dir ./a --certificate signed.pem --key 'pkcs11:token=assay;object=issuing?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:keys/hsm.pin'

Exit codes: 0 added; 2 unreadable input, or key and certificate do not fit; 3 failed.`
}

func (c *issuerAdd) Run(ctx context.Context, term *terminal, g *globals) error {
	data, err := readInput(term, c.Certificate, maxInput)
	if err != nil {
		return usage(err)
	}
	chain, err := ca.Adopt(data)
	if err != nil {
		return usage(fmt.Errorf("%s: %w", c.Certificate, err))
	}
	name := c.Name
	if name == "" {
		cert, err := x509.ParseCertificate(chain[0])
		if err != nil {
			return usage(err)
		}
		name = cert.Subject.String()
	}
	i, err := installation.Open(ctx, c.Dir, term.Now)
	if err != nil {
		return err
	}
	defer i.Close()
	issuer, err := i.AddIssuer(ctx, issuance.Call{Now: term.Now(), From: operator()}, name, chain, c.Key, c.Activate)
	if err != nil {
		return err
	}
	if g.JSON {
		line, err := issuerLineOf(issuer)
		if err != nil {
			return err
		}
		return writeJSON(term.Out, line)
	}
	fmt.Fprintf(term.Out, "Added %s; restart the server to use it\n", issuer.ID)
	if !issuer.Active {
		fmt.Fprintf(term.Out, "Next: assay issuer activate --dir %s %s\n", c.Dir, issuer.ID)
	}
	return nil
}

type issuerList struct {
	Dir string `required:"" placeholder:"DIR" help:"The installation's folder."`
}

func (issuerList) Help() string {
	return `Example:
  assay issuer list --dir ./a

Exit codes: 0 listed; 2 wrong flags; 3 failed.`
}

func (c *issuerList) Run(ctx context.Context, term *terminal, g *globals) error {
	i, err := installation.Open(ctx, c.Dir, term.Now)
	if err != nil {
		return err
	}
	defer i.Close()
	issuers, err := i.Store.Issuers(ctx)
	if err != nil {
		return err
	}
	table := newTable(term.Out, "issuing CAs", "ID", "ACTIVE", "NOT AFTER", "SUBJECT", "KEY")
	for _, issuer := range issuers {
		line, err := issuerLineOf(issuer)
		if err != nil {
			return err
		}
		if g.JSON {
			if err := writeJSON(term.Out, line); err != nil {
				return err
			}
			continue
		}
		active := ""
		if line.Active {
			active = "yes"
		}
		table.row(line.ID, active, line.NotAfter, line.Subject, line.Key)
	}
	if g.JSON {
		return nil
	}
	return table.flush()
}

type issuerActivate struct {
	Dir    string `required:"" placeholder:"DIR" help:"The installation's folder."`
	Issuer string `arg:"" help:"Its id (issuer_…)."`
}

func (issuerActivate) Help() string {
	return `Directories that name no issuer of their own use the active one; a running server after a restart.

Example:
  assay issuer activate --dir ./a issuer_06e3…

Exit codes: 0 activated; 1 there is no such issuer; 2 wrong flags; 3 failed.`
}

func (c *issuerActivate) Run(ctx context.Context, term *terminal, g *globals) error {
	i, err := installation.Open(ctx, c.Dir, term.Now)
	if err != nil {
		return err
	}
	defer i.Close()
	issuer, err := i.Store.ActivateIssuer(ctx, issuance.Call{Now: term.Now(), From: operator()}, issuance.IssuerID(c.Issuer))
	if errors.Is(err, issuance.ErrNotFound) {
		return noBecause(withHint(errors.New("there is no such issuer"), "`assay issuer list` shows all"))
	} else if err != nil {
		return err
	}
	if g.JSON {
		line, err := issuerLineOf(issuer)
		if err != nil {
			return err
		}
		return writeJSON(term.Out, line)
	}
	fmt.Fprintf(term.Out, "Activated %s; restart the server to use it\n", c.Issuer)
	return nil
}
