package main

import (
	"fmt"
	"io"

	"charm.land/lipgloss/v2"
)

// story tells a sequence of steps: for people with numbers and columns, for scripts one JSON
// object a step.
type story struct {
	out   io.Writer
	json  bool
	count int
}

func newStory(out io.Writer, asJSON bool) *story { return &story{out: out, json: asJSON} }

var (
	headline = lipgloss.NewStyle().Bold(true)
	faint    = lipgloss.NewStyle().Faint(true)
)

// tell tells one step: its name for scripts, a sentence for people, and pairs of name and value.
func (s *story) tell(step, sentence string, pairs ...string) {
	if s.json {
		details := make([]storyDetail, 0, len(pairs)/2)
		for i := 0; i+1 < len(pairs); i += 2 {
			details = append(details, storyDetail{pairs[i], pairs[i+1]})
		}
		_ = writeJSON(s.out, struct {
			Step    string        `json:"step"`
			Text    string        `json:"text"`
			Details []storyDetail `json:"details"`
		}{step, sentence, details})
		return
	}
	s.count++
	lipgloss.Fprintln(s.out, headline.Render(fmt.Sprintf("%2d  %s", s.count, printable(sentence))))
	for i := 0; i+1 < len(pairs); i += 2 {
		lipgloss.Fprintln(s.out, "    "+faint.Render(fmt.Sprintf("%-22s", pairs[i]))+" "+printable(pairs[i+1]))
	}
}

type storyDetail struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}
