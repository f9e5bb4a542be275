package parse

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"golang.org/x/mod/semver"
)

// semverType is the type of versions: semver("1.2.3") < semver("1.10.0").
var semverType = cel.ObjectType("semver", traits.ComparerType)

// version is a semantic version as a CEL value: "v1.2.3-rc.1".
type version string

// newVersion reads a version with its three numbers; a v before them is dropped.
func newVersion(text string) (version, error) {
	v := "v" + strings.TrimPrefix(text, "v")
	core, _, _ := strings.Cut(v, "+")
	if !semver.IsValid(v) || semver.Canonical(v) != core {
		return "", fmt.Errorf("%q is no semantic version such as 1.2.3 or 2.0.0-rc.1", shortened(text, 64))
	}
	return version(v), nil
}

func (v version) Type() ref.Type { return semverType }
func (v version) Value() any     { return strings.TrimPrefix(string(v), "v") }

func (v version) Equal(other ref.Val) ref.Val {
	o, ok := other.(version)
	return types.Bool(ok && semver.Compare(string(v), string(o)) == 0)
}

func (v version) Compare(other ref.Val) ref.Val {
	o, ok := other.(version)
	if !ok {
		return types.MaybeNoSuchOverloadErr(other)
	}
	return types.Int(semver.Compare(string(v), string(o)))
}

func (v version) ConvertToNative(t reflect.Type) (any, error) {
	if t.Kind() == reflect.String {
		return v.Value(), nil
	}
	return nil, fmt.Errorf("a version cannot become %v", t)
}

func (v version) ConvertToType(t ref.Type) ref.Val {
	switch t.TypeName() {
	case types.StringType.TypeName():
		return types.String(v.Value().(string))
	case semverType.TypeName():
		return v
	case types.TypeType.TypeName():
		return semverType
	}
	return types.NewErr("a version cannot become %s", t.TypeName())
}

// number gives one of the three numbers.
func (v version) number(i int) ref.Val {
	core := strings.TrimPrefix(string(v), "v")
	core, _, _ = strings.Cut(core, "+")
	core, _, _ = strings.Cut(core, "-")
	n, err := strconv.ParseInt(strings.Split(core, ".")[i], 10, 64)
	if err != nil {
		return types.NewErr("a number of the version %s is too large", shortened(core, 64))
	}
	return types.Int(n)
}

// semverLibrary is semver(), isSemver(), the numbers of a version and the order
// of versions.
func semverLibrary() cel.EnvOption { return cel.Lib(semverLib{}) }

type semverLib struct{}

func (semverLib) LibraryName() string                 { return "penstock.semver" }
func (semverLib) ProgramOptions() []cel.ProgramOption { return nil }

func (semverLib) CompileOptions() []cel.EnvOption {
	opts := []cel.EnvOption{
		cel.Function("semver", cel.Overload("semver_string", []*cel.Type{cel.StringType}, semverType, cel.UnaryBinding(func(arg ref.Val) ref.Val {
			text, ok := arg.(types.String)
			if !ok {
				return types.MaybeNoSuchOverloadErr(arg)
			}
			v, err := newVersion(string(text))
			if err != nil {
				return types.WrapErr(err)
			}
			return v
		}))),
		cel.Function("isSemver", cel.Overload("is_semver_string", []*cel.Type{cel.StringType}, cel.BoolType, cel.UnaryBinding(func(arg ref.Val) ref.Val {
			text, ok := arg.(types.String)
			if !ok {
				return types.MaybeNoSuchOverloadErr(arg)
			}
			_, err := newVersion(string(text))
			return types.Bool(err == nil)
		}))),
		cel.Function("string", cel.Overload("semver_to_string", []*cel.Type{semverType}, cel.StringType, cel.UnaryBinding(func(arg ref.Val) ref.Val {
			return arg.ConvertToType(types.StringType)
		}))),
		cel.Function("prerelease", cel.MemberOverload("semver_prerelease", []*cel.Type{semverType}, cel.StringType, cel.UnaryBinding(func(arg ref.Val) ref.Val {
			v, ok := arg.(version)
			if !ok {
				return types.MaybeNoSuchOverloadErr(arg)
			}
			return types.String(strings.TrimPrefix(semver.Prerelease(string(v)), "-"))
		}))),
	}
	for i, name := range []string{"major", "minor", "patch"} {
		opts = append(opts, cel.Function(name, cel.MemberOverload("semver_"+name, []*cel.Type{semverType}, cel.IntType, cel.UnaryBinding(func(arg ref.Val) ref.Val {
			v, ok := arg.(version)
			if !ok {
				return types.MaybeNoSuchOverloadErr(arg)
			}
			return v.number(i)
		}))))
	}
	for name, operator := range map[string]string{"less": operators.Less, "less_equals": operators.LessEquals, "greater": operators.Greater, "greater_equals": operators.GreaterEquals} {
		opts = append(opts, cel.Function(operator, cel.Overload(name+"_semver", []*cel.Type{semverType, semverType}, cel.BoolType)))
	}
	return opts
}

// shortened cuts a text to so many bytes, at a character.
func shortened(text string, most int) string {
	if len(text) <= most {
		return text
	}
	for most > 0 && text[most]&0xC0 == 0x80 {
		most--
	}
	return text[:most] + "…"
}
