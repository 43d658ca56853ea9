package policy

import (
	"context"
	"strings"
	"testing"

	"assay/csr"
)

func TestPatternsAreBounded(t *testing.T) {
	for that, want := range map[string]string{
		`request.commonName.matches("((a{0,100}){0,10})b")`:             "the pattern has 2035 steps",
		`matches(request.commonName, "(a?){0,600}b")`:                   "steps, but the limit is 1000",
		`"a".matches(request.commonName)`:                               "a pattern that is written out",
		`["a"].exists(p, request.commonName.matches(p))`:                "a pattern that is written out",
		`request.commonName.matches("a" + "b")`:                         "a pattern that is written out",
		`request.commonName.matches("(")`:                               "missing closing )",
		`request.commonName.matches("^[a-z]{3}-[0-9]{1,40}$") || false`: "",
	} {
		_, err := Parse("test", []byte("version: 1\noutcomes: [{outcome: issue, when: '"+that+"'}]"))
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", that, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: error %v, want %q in it", that, err, want)
		}
	}
}

// A device chooses the text: how long a pattern takes on it must count.
func TestAPatternThatTakesTooLongRefuses(t *testing.T) {
	p, err := Parse("test", []byte(`{version: 1, outcomes: [{outcome: issue, when: 'request.commonName.matches("(a?){0,90}b|^a")'}]}`))
	if err != nil {
		t.Fatal(err)
	}
	for length, want := range map[int]Outcome{64: Issue, 4096: Refuse} {
		in := sound()
		in.Request = &csr.Request{Subject: csr.Name{{{Type: "2.5.4.3", Value: strings.Repeat("a", length)}}}}
		d := p.Decide(context.Background(), in)
		if d.Outcome != want || want == Refuse && d.Refused().Check != CheckError {
			t.Errorf("%d characters: %s, %+v", length, d.Outcome, d.Refused())
		}
	}
}
