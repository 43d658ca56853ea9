package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"assay/internal/installation"
	"assay/internal/opinion"
	"assay/policy"
)

const (
	maxOpinionInput = 1 << 20
	maxShown        = 500 // bytes of a reply that was not understood
)

type opinionCommand struct {
	Test opinionTest `cmd:"" help:"Ask the service outside about an invented request."`
}

type opinionTest struct {
	Dir   string `required:"" placeholder:"DIR" help:"The installation's folder."`
	Input string `placeholder:"FILE" help:"JSON of a decision's input to ask about instead: it is sent with all that is in it."`
}

func (opinionTest) Help() string {
	return `Sends one signed request to the service under "opinion" in assay.yaml, marked with "test": true, and shows
what it answered and how long that took. Nothing is decided and nothing is stored.

Example:
  assay opinion test --dir ./a

Exit codes: 0 the service answered; 1 it did not, or not as documented; 2 wrong flags or configuration;
3 failed.`
}

func (c *opinionTest) Run(ctx context.Context, term *terminal, g *globals) error {
	i, err := installation.Open(ctx, c.Dir, term.Now)
	if err != nil {
		return err
	}
	defer i.Close()
	client, err := i.OpinionClient(ctx, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	if client == nil {
		return usage(withHint(errors.New("no service outside is configured"), "name one under `opinion` in assay.yaml; docs/opinion.md says how"))
	}
	defer client.Close()
	in := opinion.Sample(term.Now())
	if c.Input != "" {
		if in, err = readPolicyInput(term, c.Input); err != nil {
			return usage(err)
		}
	}
	report := client.Test(ctx, in)
	if report.Opinion.Failure == opinion.Canceled {
		return fmt.Errorf("ask %s: %w", client.URL, report.Err)
	}
	if g.JSON {
		err = writeJSON(term.Out, opinionLineOf(client.URL, &report))
	} else {
		printOpinion(term.Out, client.URL, &report)
	}
	if err != nil || report.Opinion.Answered {
		return err
	}
	return no()
}

// readPolicyInput reads the input of a decision.
func readPolicyInput(term *terminal, name string) (policy.Input, error) {
	data, err := readInput(term, name, maxOpinionInput)
	if err != nil {
		return policy.Input{}, err
	}
	var in policy.Input
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&in); err != nil {
		return policy.Input{}, fmt.Errorf("%s is no input of a decision: %w", name, err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return policy.Input{}, fmt.Errorf("%s is no input of a decision: something follows it", name)
	}
	return in, nil
}

// opinionLine is a test as scripts read it.
type opinionLine struct {
	URL          string   `json:"url"`
	ID           string   `json:"id"`
	Milliseconds int64    `json:"milliseconds"`
	Answered     bool     `json:"answered"`
	Failure      string   `json:"failure,omitempty"`
	Error        string   `json:"error,omitempty"`
	Status       int      `json:"status,omitempty"`
	Received     string   `json:"received,omitempty"` // where it was not understood
	Verdict      string   `json:"verdict,omitempty"`
	Score        *int     `json:"score,omitempty"`
	Tags         []string `json:"tags,omitempty"`
	Reason       string   `json:"reason,omitempty"`
}

func opinionLineOf(url string, r *opinion.Report) opinionLine {
	line := opinionLine{
		URL: url, ID: r.ID, Milliseconds: r.Took.Milliseconds(), Answered: r.Opinion.Answered, Failure: r.Opinion.Failure, Status: r.Status,
		Verdict: r.Opinion.Verdict, Tags: r.Opinion.Tags, Reason: r.Opinion.Reason,
	}
	if r.Opinion.Answered {
		line.Score = &r.Opinion.Score
		return line
	}
	line.Error, line.Received = r.Err.Error(), shown(r.Received)
	return line
}

func printOpinion(w io.Writer, url string, r *opinion.Report) {
	sayf(w, "Asked %s: test request %s, %d bytes\n", url, r.ID, len(r.Sent))
	took := r.Took.Round(time.Millisecond)
	if !r.Opinion.Answered {
		sayf(w, "NO answer after %s: %s\n", took, r.Opinion.Failure)
		f := newFields(w)
		f.add("why", r.Err.Error())
		f.add("received", shown(r.Received))
		f.add("hint", opinionHint(r))
		f.flush()
		return
	}
	sayf(w, "Answered in %s\n", took)
	f := newFields(w)
	f.add("verdict", r.Opinion.Verdict)
	f.add("score", strconv.Itoa(r.Opinion.Score))
	f.add("tags", strings.Join(r.Opinion.Tags, ", "))
	f.add("reason", r.Opinion.Reason)
	f.flush()
}

// shown is the beginning of a reply.
func shown(body []byte) string {
	if len(body) > maxShown {
		return strings.ToValidUTF8(string(body[:maxShown]), "") + "…"
	}
	return string(body)
}

// opinionHint says what to look at.
func opinionHint(r *opinion.Report) string {
	switch r.Opinion.Failure {
	case opinion.Unreachable:
		return "does it run there, and is its certificate from a CA that is trusted (opinion.ca)?"
	case opinion.Timeout:
		return "a device waits for this answer: it must come within opinion.timeout"
	case opinion.Status:
		switch {
		case r.Status == http.StatusUnauthorized || r.Status == http.StatusForbidden:
			return "has the service the same secret, and the right time?"
		case r.Status/100 == 3:
			return "redirects are not followed: opinion.url is the service's own URL"
		}
		return "the service's log says more"
	case opinion.Unsigned:
		return "opinion.signedResponses demands a signature with the same secret, made at the right time"
	case opinion.Malformed, opinion.WrongID:
		return "docs/opinion.md says how an answer looks"
	}
	return ""
}
