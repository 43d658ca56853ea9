package policy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"

	"cel.dev/cel-go/common/operators"
)

// Warnings are what is most likely a mistake in a policy that can be used all the same.
func (p *Policy) Warnings() []Fault {
	var w []Fault
	warn := func(line int, place, format string, args ...any) {
		w = append(w, Fault{Line: line, Place: place, Message: fmt.Sprintf(format, args...)})
	}
	for i := range p.require {
		q := &p.require[i]
		switch constant(q.that) {
		case True:
			warn(q.That.line, "requirement "+q.Name, "always holds")
		case False:
			warn(q.That.line, "requirement "+q.Name, "never holds: nothing is ever issued where it applies")
		}
		if name := twice(q.that); name != "" {
			warn(q.That.line, "requirement "+q.Name, "never holds: %s cannot equal two things; nothing is ever issued where it applies", name)
		}
		if name := twice(q.when); name != "" {
			warn(q.When.line, "requirement "+q.Name, "never applies: %s cannot equal two things", name)
		}
	}
	p.warnContradictions(warn)
	least, most := 0, 0
	for i := range p.signals {
		s := &p.signals[i]
		if s.Points == 0 && s.Unknown == 0 {
			warn(s.That.line, "signal "+s.Name, "gives no points")
		}
		if constant(s.that) != Unknown {
			warn(s.That.line, "signal "+s.Name, "is always %s", constant(s.that))
		}
		if name := twice(s.that); name != "" {
			warn(s.That.line, "signal "+s.Name, "is never true: %s cannot equal two things", name)
		}
		least, most = least+min(0, s.Points, s.Unknown), most+max(0, s.Points, s.Unknown)
	}
	p.warnOutcomes(least, most, warn)
	for _, label := range p.labels {
		read := slices.ContainsFunc(p.uses, func(a *attribute) bool { return a.name == deviceLabels+label || a.name == codeLabels+label })
		if !read {
			warn(0, "labels", "no expression reads the label %s", label)
		}
	}
	return w
}

// warnOutcomes finds outcomes that no score between least and most reaches.
func (p *Policy) warnOutcomes(least, most int, warn func(int, string, string, ...any)) {
	taken, issues, closed := most+1, false, false // scores from taken on are taken by outcomes before
	for i := range p.outcomes {
		o := &p.outcomes[i]
		place := fmt.Sprintf("outcome %d (%s)", i+1, o.Outcome)
		from := least
		if o.Score != nil {
			from = max(*o.Score, least)
		}
		issues = issues || o.Outcome != Refuse
		switch {
		case o.Score != nil && *o.Score > most:
			warn(o.When.line, place, "is never reached: it needs a score of %d, and all signals together give at most %d", *o.Score, most)
			continue
		case from >= taken:
			warn(o.When.line, place, "is never reached: an outcome before it takes every score from %d on", taken)
			continue
		case constant(o.when) == False:
			warn(o.When.line, place, "is never reached: its condition is always false")
			continue
		case twice(o.when) != "":
			warn(o.When.line, place, "is never reached: %s cannot equal two things", twice(o.when))
			continue
		}
		if o.when == nil || constant(o.when) == True {
			taken = min(taken, from)
		}
		closed = closed || taken <= least
	}
	if !issues {
		warn(0, "outcomes", "every outcome refuses")
	}
	if !closed {
		warn(0, "outcomes", "some requests fit none, and are refused by the name %q: end with an outcome without score and condition", CheckOutcome)
	}
}

// warnContradictions finds pairs of requirements that cannot both hold: a condition and its opposite,
// and one attribute that is to equal two things.
func (p *Policy) warnContradictions(warn func(int, string, string, ...any)) {
	type demand struct {
		name, text, opposite string
		equals               map[string]string // attribute to literal
	}
	var demands []demand
	for i := range p.require {
		q := &p.require[i]
		if q.when != nil || q.that == nil {
			continue // where they apply may differ
		}
		root := q.that.ast.NativeRep().Expr()
		d := demand{name: q.Name, text: squeeze(q.that.text), equals: map[string]string{}}
		if inner, negated := strings.CutPrefix(d.text, "!"); negated {
			d.opposite = strings.TrimSuffix(strings.TrimPrefix(inner, "("), ")")
		}
		conjuncts(root, func(e ast.Expr) {
			if name, literal, ok := equality(e); ok {
				d.equals[name] = literal
			}
		})
		for _, before := range demands {
			clash := d.opposite != "" && d.opposite == before.text || before.opposite != "" && before.opposite == d.text
			for name, literal := range d.equals {
				other, both := before.equals[name]
				clash = clash || both && other != literal
			}
			if clash {
				warn(q.That.line, "requirement "+q.Name, "contradicts the requirement %s: they cannot both hold", before.name)
			}
		}
		demands = append(demands, d)
	}
}

func squeeze(text string) string { return strings.Join(strings.Fields(text), "") }

// conjuncts calls each for the conditions that && joins.
func conjuncts(e ast.Expr, each func(ast.Expr)) {
	if e.Kind() == ast.CallKind && e.AsCall().FunctionName() == operators.LogicalAnd {
		for _, arg := range e.AsCall().Args() {
			conjuncts(arg, each)
		}
		return
	}
	each(e)
}

// twice is an attribute that a condition wants to equal two things at once; "" for none.
func twice(x *expression) (name string) {
	if x == nil {
		return ""
	}
	equals := map[string]string{}
	conjuncts(x.ast.NativeRep().Expr(), func(e ast.Expr) {
		attribute, literal, ok := equality(e)
		if !ok {
			return
		}
		if before, said := equals[attribute]; said && before != literal {
			name = attribute
		}
		equals[attribute] = literal
	})
	return name
}

// equality takes a condition such as device.state == "active" apart.
func equality(e ast.Expr) (name, literal string, ok bool) {
	if e.Kind() != ast.CallKind || e.AsCall().FunctionName() != operators.Equals {
		return "", "", false
	}
	for _, arg := range e.AsCall().Args() {
		if arg.Kind() == ast.LiteralKind {
			literal = fmt.Sprintf("%v", arg.AsLiteral().Value())
			ok = true
		} else {
			name = qualifiedName(arg)
		}
	}
	return name, literal, ok && name != ""
}

// constant is what an expression comes to that reads nothing; Unknown for any other, and for none.
func constant(x *expression) SignalValue {
	if x == nil || len(x.uses) > 0 || len(x.known) > 0 {
		return Unknown
	}
	out, _, err := x.program.ContextEval(context.Background(), map[string]any{})
	if err != nil {
		return Unknown
	}
	if out == types.True {
		return True
	}
	return False
}
