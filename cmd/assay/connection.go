package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"assay/internal/admin/client"
	"assay/internal/installation"
)

// Environment variables that stand in for flags.
const (
	serverVariable    = "ASSAY_SERVER"
	tokenFileVariable = "ASSAY_TOKEN_FILE"
)

// Limits of what a connection reads and waits for.
const (
	maxTokenFile   = 4 << 10
	maxCAFile      = 1 << 20
	requestTimeout = 2 * time.Minute // a batch of 500 renderings on a busy server
)

// connection is how a command reaches the API: over the network with a token, or in this process on
// an installation's folder, as the operator who may read its keys. Exactly one of Dir and Server.
type connection struct {
	Dir       string `placeholder:"DIR" help:"The installation's folder, on this machine."`
	Server    string `placeholder:"URL" help:"Admin API of a server elsewhere, instead of --dir. Default: the environment's ASSAY_SERVER."`
	TokenFile string `placeholder:"FILE" help:"File with the token for --server, readable by its owner only. Default: ASSAY_TOKEN_FILE."`
	CAFile    string `name:"ca-file" placeholder:"PEM" help:"Root that the certificate of --server is checked with. Default: the system's."`
}

// endings are what is done once a command is done, whatever came of it.
type endings []func() error

func (e endings) run() error {
	var errs []error
	for _, end := range e {
		errs = append(errs, end())
	}
	return errors.Join(errs...)
}

// ProvideAPI reaches the API for a Run that takes a client, before it is called.
func (c *connection) ProvideAPI(ctx context.Context, term *terminal, after *endings) (*client.Client, error) {
	api, closeAPI, err := c.open(ctx, term)
	if err == nil {
		*after = append(*after, closeAPI)
	}
	return api, err
}

// open reaches the API. Call the function that it returns once the command is done.
func (c *connection) open(ctx context.Context, term *terminal) (*client.Client, func() error, error) {
	server := c.Server
	if server == "" && c.Dir == "" {
		server = os.Getenv(serverVariable)
	}
	switch {
	case c.Dir == "" && server == "":
		return nil, nil, usage(withHint(errors.New("missing flags: --dir=DIR or --server=URL"),
			"--dir works on an installation's folder, --server with --token-file on a server elsewhere"))
	case c.Dir != "" && c.Server != "":
		return nil, nil, usage(errors.New("--dir and --server exclude each other"))
	case c.Dir != "" && (c.TokenFile != "" || c.CAFile != ""):
		return nil, nil, usage(errors.New("--token-file and --ca-file go with --server: --dir needs no token"))
	case c.Dir != "":
		return openFolder(ctx, c.Dir, term)
	}
	return c.openServer(server)
}

// openFolder serves the API to this process alone, without a network.
func openFolder(ctx context.Context, dir string, term *terminal) (*client.Client, func() error, error) {
	i, err := installation.Open(ctx, dir, term.Now)
	if err != nil {
		return nil, nil, err
	}
	handler, err := i.API(operator())
	if err != nil {
		return nil, nil, errors.Join(err, i.Close())
	}
	return client.New("http://in-process.invalid", client.InProcess(handler), ""), i.Close, nil
}

// openServer reaches a server with a token.
func (c *connection) openServer(server string) (*client.Client, func() error, error) {
	if err := checkServerURL(server); err != nil {
		return nil, nil, usage(err)
	}
	file := cmp.Or(c.TokenFile, os.Getenv(tokenFileVariable))
	if file == "" {
		return nil, nil, usage(withHint(errors.New("--server needs --token-file"),
			"make a token on the server: assay token mint --dir DIR --name NAME --scope SCOPES -o FILE"))
	}
	token, err := readToken(file)
	if err != nil {
		return nil, nil, usage(err)
	}
	roots, err := readPool(c.CAFile)
	if err != nil {
		return nil, nil, usage(err)
	}
	transport := &http.Transport{
		Proxy:             http.ProxyFromEnvironment,
		TLSClientConfig:   &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2: true, TLSHandshakeTimeout: 10 * time.Second,
		ResponseHeaderTimeout: requestTimeout, IdleConnTimeout: time.Minute,
	}
	stop := func() error {
		transport.CloseIdleConnections()
		return nil
	}
	return client.New(strings.TrimSuffix(server, "/"), transport, token), stop, nil
}

// checkServerURL demands TLS, without which anybody on the way has the token.
func checkServerURL(server string) error {
	u, err := url.Parse(server)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "" {
		return withHint(fmt.Errorf("--server %q is not a plain URL", server), "it is written like https://id.example.com:8444")
	}
	if u.Scheme != "https" {
		return fmt.Errorf("--server %s: the token would cross the network in the clear; the admin API is served by https", server)
	}
	return nil
}

// readToken reads a token file.
func readToken(name string) (string, error) {
	data, err := readPrivate(name, maxTokenFile)
	if err != nil {
		return "", fmt.Errorf("read token: %w", err)
	}
	token := string(bytes.TrimSpace(data))
	if !strings.HasPrefix(token, "assay_") || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("read token: %s does not hold one token (assay_…)", name)
	}
	return token, nil
}

// readPool reads the roots for TLS; nil, the system's, where no file is named.
func readPool(name string) (*x509.CertPool, error) {
	if name == "" {
		return nil, nil
	}
	data, err := readFile(name, maxCAFile)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("%s holds no PEM certificate", name)
	}
	return roots, nil
}
