package policy

import (
	"errors"
	"fmt"
	"regexp/syntax"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// maxPattern is the largest program of a regular expression, in instructions.
const maxPattern = 1000

// stepsPerCost is how many steps of a regular expression take as long as one of CEL's.
const stepsPerCost = 10

// patternCost knows how large the programs of an expression's regular expressions are. CEL itself counts a
// pattern by its length, as if ((a{0,100}){0,10})b were as quick as another of 18 characters: on a text that
// a device chose, that took a third of a second and stayed within every limit.
type patternCost map[string]int

// CallCost counts matches() by the steps that it may take; nil leaves all else to CEL.
func (p patternCost) CallCost(function, _ string, args []ref.Val, _ ref.Val) *uint64 {
	if function != overloads.Matches || len(args) != 2 {
		return nil
	}
	text, isText := args[0].(types.String)
	pattern, isPattern := args[1].(types.String)
	if !isText || !isPattern {
		return nil
	}
	cost := 1 + uint64(len(text))*uint64(p[string(pattern)])/stepsPerCost
	return &cost
}

// checkPatterns measures the regular expressions of an expression. Only what is written out can be measured,
// and what a device wrote is no pattern.
func checkPatterns(checked *cel.Ast) (patternCost, error) {
	patterns := patternCost{}
	var fault error
	ast.PostOrderVisit(checked.NativeRep().Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() != ast.CallKind || e.AsCall().FunctionName() != overloads.Matches || fault != nil {
			return
		}
		args := e.AsCall().Args()
		pattern, isText := types.String(""), false
		if last := args[len(args)-1]; last.Kind() == ast.LiteralKind {
			pattern, isText = last.AsLiteral().(types.String)
		}
		if !isText {
			fault = errors.New("matches() takes a pattern that is written out")
			return
		}
		patterns[string(pattern)], fault = instructions(string(pattern))
	}))
	return patterns, fault
}

// instructions is the size of a regular expression's program.
func instructions(pattern string) (int, error) {
	parsed, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return 0, fmt.Errorf("matches(): %w", err)
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return 0, fmt.Errorf("matches(): %w", err)
	}
	if n := len(program.Inst); n > maxPattern {
		return 0, fmt.Errorf("matches(): the pattern has %d steps, but the limit is %d: repeat less in it", n, maxPattern)
	}
	return len(program.Inst), nil
}
