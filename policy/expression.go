package policy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// Limits on expressions. CEL has no loops but those over lists; the cost of an evaluation is counted in
// its steps, so that a decision's limit does not depend on the machine.
const (
	maxExpression   = 4 << 10 // bytes
	maxExpressions  = 500     // of one policy
	expressionCost  = 10_000  // of one evaluation
	decisionCost    = 200_000 // of all evaluations of one decision
	interruptChecks = 64      // iterations of a list between looks at the context
	nesting         = 32
)

// expression is a checked condition.
type expression struct {
	place   string // for people, such as `signal os-current`
	text    string
	program cel.Program
	uses    []*attribute
	known   []*attribute // that it asks about with known()
	ast     *cel.Ast
}

// knownPrefix names the variables that known() becomes. Nobody can write them.
const knownPrefix = "@known."

// language is what the expressions of one policy are written in.
type language struct {
	env        *cel.Env
	attributes map[string]*attribute
}

// newLanguage makes the language with attributes for the labels.
func newLanguage(labels []string) (*language, error) {
	l := &language{attributes: map[string]*attribute{}}
	for i := range attributes {
		l.attributes[attributes[i].name] = &attributes[i]
	}
	for _, label := range labels {
		for _, a := range labelAttributes(label) {
			l.attributes[a.name] = &a
		}
	}
	options := []cel.EnvOption{
		cel.ParserRecursionLimit(nesting), cel.ParserExpressionSizeLimit(maxExpression), cel.EnableIdentifierEscapeSyntax(),
		cel.ClearMacros(), // has() among them: known() is what tells whether something is known
		cel.Macros(cel.AllMacro, cel.ExistsMacro, cel.ExistsOneMacro, cel.FilterMacro, cel.MapMacro, cel.GlobalMacro("known", 1, l.expandKnown)),
		cel.Function("days", cel.Overload("days_int", []*cel.Type{cel.IntType}, cel.DurationType, cel.UnaryBinding(days))),
		cel.Function("version", cel.Overload("version_string", []*cel.Type{cel.StringType}, versionType, cel.UnaryBinding(toVersion))),
	}
	// How versions compare is the business of the type: the operators ask it. Equality takes two of one type.
	for _, operator := range []string{operators.Less, operators.LessEquals, operators.Greater, operators.GreaterEquals} {
		options = append(options, cel.Function(operator,
			cel.Overload(operator+"version", []*cel.Type{versionType, versionType}, cel.BoolType),
			cel.Overload(operator+"version_string", []*cel.Type{versionType, cel.StringType}, cel.BoolType)))
	}
	for _, name := range slices.Sorted(maps.Keys(l.attributes)) {
		options = append(options, cel.Variable(name, l.attributes[name].kind), cel.Variable(knownPrefix+name, cel.BoolType))
	}
	var err error
	l.env, err = cel.NewEnv(options...)
	return l, err
}

// maxDays bounds days(): a hundred years do not overflow.
const maxDays = 36_500

func days(n ref.Val) ref.Val {
	count, ok := n.(types.Int)
	if !ok || count < -maxDays || count > maxDays {
		return types.NewErr("days(%v) is not within a hundred years", n)
	}
	return types.Duration{Duration: day * duration(count)}
}

func toVersion(s ref.Val) ref.Val {
	v, fault := of(s)
	if fault != nil {
		return fault
	}
	return v
}

// expandKnown turns known(facts.osVersion) into the variable that tells whether it is.
func (l *language) expandKnown(factory cel.MacroExprFactory, _ ast.Expr, args []ast.Expr) (ast.Expr, *common.Error) {
	name := qualifiedName(args[0])
	if l.attributes[name] == nil {
		return nil, factory.NewError(args[0].ID(), "known() asks about one attribute, such as known(facts.osVersion)")
	}
	return factory.NewIdent(knownPrefix + name), nil
}

// qualifiedName is the name that an expression is, "" if it is more than a name.
func qualifiedName(e ast.Expr) string {
	switch e.Kind() {
	case ast.IdentKind:
		return e.AsIdent()
	case ast.SelectKind:
		if operand := qualifiedName(e.AsSelect().Operand()); operand != "" && !e.AsSelect().IsTestOnly() {
			return operand + "." + e.AsSelect().FieldName()
		}
	}
	return ""
}

// compile checks a condition. Its error is for whoever wrote it.
func (l *language) compile(place, text string) (*expression, error) {
	if strings.TrimSpace(text) == "" {
		return nil, errors.New("is empty")
	}
	if len(text) > maxExpression {
		return nil, fmt.Errorf("is longer than %d bytes", maxExpression)
	}
	checked, issues := l.env.Compile(text)
	if issues.Err() != nil {
		return nil, errors.New(l.explain(issues))
	}
	if !checked.OutputType().IsExactType(cel.BoolType) {
		return nil, fmt.Errorf("is a %s, but must be true or false", kindName(checked.OutputType()))
	}
	x := &expression{place: place, text: text, ast: checked}
	l.collect(x)
	if err := checkVersions(checked); err != nil {
		return nil, err
	}
	var err error
	x.program, err = l.env.Program(checked, cel.EvalOptions(cel.OptOptimize, cel.OptPartialEval),
		cel.CostLimit(expressionCost), cel.InterruptCheckFrequency(interruptChecks))
	if err != nil {
		return nil, err
	}
	return x, nil
}

// collect notes which attributes an expression reads, and which it asks about with known().
func (l *language) collect(x *expression) {
	uses, known := map[string]bool{}, map[string]bool{}
	for _, r := range x.ast.NativeRep().ReferenceMap() {
		if name, isKnown := strings.CutPrefix(r.Name, knownPrefix); isKnown {
			known[name] = true
		} else if l.attributes[r.Name] != nil {
			uses[r.Name] = true
		}
	}
	pick := func(names map[string]bool) (out []*attribute) {
		for _, name := range slices.Sorted(maps.Keys(names)) {
			out = append(out, l.attributes[name])
		}
		return out
	}
	x.uses, x.known = pick(uses), pick(known)
}

// checkVersions finds texts that are compared with versions and are none.
func checkVersions(checked *cel.Ast) error {
	native := checked.NativeRep()
	var fault error
	ast.PostOrderVisit(native.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() != ast.CallKind || fault != nil {
			return
		}
		for _, arg := range e.AsCall().Args() {
			literal, isText := types.String(""), false
			if arg.Kind() == ast.LiteralKind {
				literal, isText = arg.AsLiteral().(types.String)
			}
			if isText && takesVersion(native, e) {
				_, fault = parseVersion(string(literal))
			}
		}
	}))
	return fault
}

// takesVersion reports whether a call reads a text as a version.
func takesVersion(native *ast.AST, call ast.Expr) bool {
	r := native.ReferenceMap()[call.ID()]
	return r != nil && slices.ContainsFunc(r.OverloadIDs, func(id string) bool {
		return id == "version_string" || strings.HasSuffix(id, "version_string")
	})
}

// explain puts the checker's faults into one line, with a hint where a name is unknown.
func (l *language) explain(issues *cel.Issues) string {
	var lines []string
	for _, e := range issues.Errors() {
		message := e.Message
		if name, rest, ok := strings.Cut(strings.TrimPrefix(message, "undeclared reference to '"), "'"); ok && strings.HasPrefix(message, "undeclared") {
			_, guess, _ := strings.Cut(rest, " (did you mean ")
			message = l.unknownName(name)
			if guess != "" && !ofLabels(name) { // no other attribute is meant
				message += ". Did you mean " + strings.TrimSuffix(guess, "?)") + "?"
			}
		} else if strings.Contains(message, "(version, string)") {
			message += `: write == version("18.1")`
		}
		lines = append(lines, fmt.Sprintf("column %d: %s", e.Location.Column()+1, message))
	}
	return strings.Join(lines, "; ")
}

// ofLabels reports whether an unknown name is that of a label, or of all labels: that is what the checker
// names where a policy names no label at all.
func ofLabels(name string) bool {
	return strings.HasPrefix(name+".", deviceLabels) || strings.HasPrefix(name+".", codeLabels)
}

func (l *language) unknownName(name string) string {
	switch {
	case name == "has":
		return "there is no has(): ask with known()"
	case ofLabels(name):
		return fmt.Sprintf("there is no %s: labels that expressions read must be named under labels", name)
	}
	return fmt.Sprintf("there is no %s: `assay policy attributes` lists what there is", name)
}

// values are the attributes that a policy reads, as one input has them. What is not among them is not
// known.
type values struct {
	known   map[string]any
	unknown []*cel.AttributePatternType
}

// valuesOf reads the attributes that the policy uses from an input.
func (p *Policy) valuesOf(in *Input) *values {
	v := &values{known: make(map[string]any, 2*len(p.uses))}
	for _, a := range p.uses {
		v.set(a, a.of(in))
	}
	return v
}

// set gives an attribute a value, or none.
func (v *values) set(a *attribute, value any) {
	v.known[knownPrefix+a.name] = types.Bool(value != nil)
	if value == nil {
		v.unknown = append(v.unknown, cel.AttributePattern(a.name))
		return
	}
	v.known[a.name] = celValue(value)
}

// run is one decision's evaluation of expressions.
type run struct {
	ctx    context.Context
	values *values
	vars   cel.PartialActivation
	spent  uint64
	failed *Reason // why the decision must be a refusal; nil while all is well
}

// truth evaluates a condition. Unknown comes with the attributes for want of which it cannot be told. A
// condition that fails is False, and the decision then refuses.
func (r *run) truth(x *expression) (value SignalValue, unknown []string) {
	if r.failed != nil {
		return False, nil
	}
	defer func() {
		if fault := recover(); fault != nil { // a fault of the library: the server must not fall with it
			value, unknown = r.fail(x, CheckError, "failed"), nil
		}
	}()
	if r.ctx.Err() != nil {
		return r.fail(x, CheckTime, "came when the time for the decision was over"), nil
	}
	if r.vars == nil {
		var err error
		if r.vars, err = cel.PartialVars(r.values.known, r.values.unknown...); err != nil {
			return r.fail(x, CheckError, "failed"), nil
		}
	}
	out, details, err := x.program.ContextEval(r.ctx, r.vars)
	if details != nil && details.ActualCost() != nil {
		r.spent += *details.ActualCost()
	}
	switch {
	case r.ctx.Err() != nil:
		return r.fail(x, CheckTime, "took too long"), nil
	case err != nil:
		return r.fail(x, CheckError, "failed"), nil
	case r.spent > decisionCost:
		return r.fail(x, CheckError, "made the decision cost too much"), nil
	}
	switch out := out.(type) {
	case types.Bool:
		if out {
			return True, nil
		}
		return False, nil
	case *types.Unknown:
		return Unknown, trails(out)
	}
	return r.fail(x, CheckError, "is neither true nor false"), nil
}

// fail makes the decision a refusal. What the expression met is not said: it may hold personal values.
func (r *run) fail(x *expression, check, what string) SignalValue {
	r.failed = &Reason{Check: check, Detail: "the expression of " + x.place + " " + what, Advice: "`assay policy check` and `assay policy test` find what it fails on"}
	return False
}

// trails are the names of the attributes that are not known, sorted.
func trails(u *types.Unknown) []string {
	names := map[string]bool{}
	for _, id := range u.IDs() {
		found, _ := u.GetAttributeTrails(id)
		for _, t := range found {
			names[t.Variable()] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// merge joins sorted lists of names, each name once.
func merge(a, b []string) []string {
	if len(a) == 0 {
		return b
	}
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}
