package main

import (
	"context"
	"fmt"
	"strings"

	"assay/internal/ca"
	"assay/internal/installation"
)

type initCommand struct {
	Dir             string   `required:"" placeholder:"DIR" help:"Folder for configuration, keys and database; made if missing."`
	Name            string   `default:"Assay" help:"Organisation, for the names of the CAs."`
	URL             string   `name:"url" placeholder:"URL" help:"https URL that devices reach the server at. Default: the listen address."`
	Listen          string   `default:"127.0.0.1:8443" help:"Address to listen on."`
	Database        string   `placeholder:"URL" help:"PostgreSQL database (postgres://…) that any number of servers share. Default: the environment's ASSAY_DATABASE, which is not written into DIR; without it a SQLite file in DIR."`
	AdminListen     string   `placeholder:"HOST:PORT" help:"Address of the admin API, or 'none'. Default: loopback, at the port after --listen's."`
	AttestationRoot []string `placeholder:"[FORMAT=]FILE" sep:"none" help:"Attestation roots (PEM) to accept beside the manufacturer's own; the format defaults to apple."`
	AllowStandIn    bool     `help:"Accept the roots of stand-in attestation authorities: for tests only."`
	KeyAlgorithm    string   `enum:"P-256,P-384,RSA-3072" default:"P-256" help:"Keys of the root and the issuing CA (${enum})."`
	RootKeyOut      string   `placeholder:"FILE" help:"Write the root's key here instead of into DIR; serving never needs it."`
	CSR             bool     `name:"csr" help:"Make a certificate signing request for an existing PKI instead of a root."`
	Issuer          string   `placeholder:"CERT" help:"Use this existing issuing CA (PEM chain, issuing certificate first)."`
	Key             string   `placeholder:"URI" help:"Key of the issuing CA, where it exists already: file:PATH (relative to DIR), or pkcs11:… in a hardware module."`
}

func (initCommand) Help() string {
	return `Examples:
  assay init --dir /var/lib/assay --name "Example Inc." --url https://id.example.com
  assay init --dir ./test --attestation-root authority/root.pem --allow-stand-in
  assay init --dir ./sub --csr
  assay issuer add --dir ./sub --certificate signed.pem --key file:keys/issuing.key --activate

Exit codes: 0 made; 2 wrong flags or unreadable input; 3 failed (an existing installation is never touched).`
}

func (c *initCommand) Run(ctx context.Context, term *terminal, g *globals) error {
	if c.CSR && c.Issuer != "" {
		return usage(fmt.Errorf("--csr and --issuer exclude each other"))
	}
	if c.Issuer != "" && c.Key == "" {
		return usage(fmt.Errorf("--issuer needs --key"))
	}
	roots := map[string][]string{}
	for _, value := range c.AttestationRoot {
		format, file, named := strings.Cut(value, "=")
		if !named {
			format, file = "apple", value
		}
		roots[format] = append(roots[format], file)
	}
	result, err := installation.Init(ctx, c.Dir, installation.InitOptions{
		Name: c.Name, URL: c.URL, Listen: c.Listen, Database: c.Database, AdminListen: c.AdminListen, AttestationRoots: roots, AllowStandIn: c.AllowStandIn,
		KeyAlgorithm: ca.KeyAlgorithm(c.KeyAlgorithm), RootKeyOut: c.RootKeyOut, SigningRequest: c.CSR,
		IssuerChain: c.Issuer, IssuerKey: c.Key, Now: term.Now, From: operator(),
	})
	if err != nil {
		return err
	}
	if g.JSON {
		return writeJSON(term.Out, result)
	}
	fmt.Fprintf(term.Out, "Made an installation in %s\n\n", c.Dir)
	list := newFields(term.Out)
	if !strings.HasSuffix(result.BaseURL, ":0") { // else the system chooses the port when it serves
		list.add("directory URL", result.DirectoryURL)
	}
	list.add("root certificate", result.Root, "relying parties trust it")
	list.add("serving root", result.ServingRoot, "devices trust it for TLS")
	list.add("signing request", result.SigningRequest, "have your PKI sign it, then: assay issuer add")
	list.flush()
	for _, name := range result.StandInRoots {
		fmt.Fprintf(term.Out, "\nWARNING: %s is a stand-in attestation authority: it proves nothing about real devices.\n", name)
		if !c.AllowStandIn {
			fmt.Fprintln(term.Out, "         `assay serve` will refuse it until assay.yaml says allowStandIn: true.")
		}
	}
	if result.SigningRequest == "" {
		fmt.Fprintf(term.Out, "\nNext: assay serve --dir %s\n", c.Dir)
	}
	return nil
}
