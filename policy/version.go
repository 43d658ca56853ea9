package policy

import (
	"cmp"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// versionType is the type of versions in expressions. They compare number by number: 18.10 is newer than
// 18.9, and 18.1 is 18.1.0.
var versionType = cel.ObjectType("version", traits.ComparerType)

// maxVersionParts bounds a version.
const maxVersionParts = 16

// version is a dotted version of software, such as 18.1.1.
type version []uint64

// parseVersion reads numbers with dots between them, and nothing else.
func parseVersion(text string) (version, error) {
	parts := strings.Split(text, ".")
	if len(parts) > maxVersionParts {
		return nil, fmt.Errorf("%.40q is no version: it has more than %d parts", text, maxVersionParts)
	}
	v := make(version, len(parts))
	for i, part := range parts {
		n, err := strconv.ParseUint(part, 10, 63)
		if err != nil {
			return nil, fmt.Errorf("%.40q is no version: it is written like 18.1", text)
		}
		v[i] = n
	}
	return v, nil
}

func (v version) compare(other version) int {
	for i := range max(len(v), len(other)) {
		var a, b uint64
		if i < len(v) {
			a = v[i]
		}
		if i < len(other) {
			b = other[i]
		}
		if c := cmp.Compare(a, b); c != 0 {
			return c
		}
	}
	return 0
}

// of is the version that an expression compares with: another one, or one written as text.
func of(other ref.Val) (version, ref.Val) {
	switch o := other.(type) {
	case version:
		return o, nil
	case types.String:
		parsed, err := parseVersion(string(o))
		if err != nil {
			return nil, types.WrapErr(err)
		}
		return parsed, nil
	}
	return nil, types.MaybeNoSuchOverloadErr(other)
}

// Compare is for the operators <, <=, >, >=.
func (v version) Compare(other ref.Val) ref.Val {
	o, fault := of(other)
	if fault != nil {
		return fault
	}
	return types.Int(v.compare(o))
}

// Equal is for == and !=.
func (v version) Equal(other ref.Val) ref.Val {
	o, fault := of(other)
	if fault != nil {
		return fault
	}
	return types.Bool(v.compare(o) == 0)
}

// ConvertToNative has no use here: versions stay in expressions.
func (v version) ConvertToNative(to reflect.Type) (any, error) {
	return nil, fmt.Errorf("a version is no %v", to)
}

// ConvertToType has no use here, either.
func (v version) ConvertToType(to ref.Type) ref.Val {
	return types.NewErr("a version is no %s", to.TypeName())
}

// Type is versionType.
func (v version) Type() ref.Type { return versionType }

// Value is the version itself.
func (v version) Value() any { return v }
