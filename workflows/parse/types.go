package parse

import (
	"maps"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"

	"github.com/penstock-cd/penstock/workflows"
)

// shapes gives the CEL checker the objects of a scope, so that a misspelt field
// is an error of the file. Values stay plain maps at run time. The names of
// object types hold a space: no expression can spell one.
type shapes struct {
	types.Provider
	objects map[string]map[string]*cel.Type
}

func newShapes(base types.Provider) *shapes {
	return &shapes{Provider: base, objects: maps.Clone(fixedObjects)}
}

// object makes a type of an object with these fields.
func (s *shapes) object(name string, fields map[string]*cel.Type) *cel.Type {
	s.objects[name] = fields
	return cel.ObjectType(name)
}

func (s *shapes) FindStructType(name string) (*types.Type, bool) {
	if _, ok := s.objects[name]; ok {
		return types.NewTypeTypeWithParam(types.NewObjectType(name)), true
	}
	return s.Provider.FindStructType(name)
}

func (s *shapes) FindStructFieldNames(name string) ([]string, bool) {
	if fields, ok := s.objects[name]; ok {
		return slices.Sorted(maps.Keys(fields)), true
	}
	return s.Provider.FindStructFieldNames(name)
}

func (s *shapes) FindStructFieldType(name, field string) (*types.FieldType, bool) {
	if fields, ok := s.objects[name]; ok {
		t, ok := fields[field]
		if !ok {
			return nil, false
		}
		return &types.FieldType{Type: t}, true
	}
	return s.Provider.FindStructFieldType(name, field)
}

// fieldNames lists the fields of all objects, to guess what was meant.
func (s *shapes) fieldNames() []string {
	all := map[string]bool{}
	for _, fields := range s.objects {
		for name := range fields {
			all[name] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// inputsName is the type of the inputs of a workflow.
const inputsName = "the inputs"

// The objects that are the same in every scope.
var (
	runType      = cel.ObjectType("the run")
	errorType    = cel.ObjectType("an error")
	decisionType = cel.ObjectType("a decision")
	envType      = cel.ObjectType("an environment")
	whyType      = cel.ObjectType("a reason")
	artifactType = cel.ObjectType("an artifact")
	firedType    = cel.ObjectType("an event of a schedule")
	labelsType   = cel.MapType(cel.StringType, cel.StringType)

	fixedObjects = map[string]map[string]*cel.Type{
		"the run": {
			"id": cel.StringType, "workflow": cel.StringType, "title": cel.StringType, "requestedBy": cel.StringType,
			"authors": cel.ListType(cel.StringType), "labels": labelsType, "startedAt": cel.TimestampType,
			"done": cel.BoolType, "outcome": cel.StringType, "visit": cel.IntType,
		},
		"an error": {"code": cel.StringType, "message": cel.StringType, "retryable": cel.BoolType},
		"a decision": {"user": cel.StringType, "roles": cel.ListType(cel.StringType), "comment": cel.StringType,
			"at": cel.TimestampType, "via": cel.StringType},
		"an environment": {"name": cel.StringType, "labels": labelsType, "config": cel.MapType(cel.StringType, cel.DynType)},
		"a reason":       {"short": cel.StringType},
		"an artifact":    {"digest": cel.StringType},
		"an event of a schedule": {"id": cel.StringType, "source": cel.StringType, "type": cel.StringType, "subject": cel.StringType,
			"time": cel.StringType, "data": cel.ObjectType("the time of a schedule")},
		"the time of a schedule": {"at": cel.StringType, "head": cel.StringType},
	}
)

// celType gives the CEL type of values of a type of the language. Durations
// and timestamps stand in data as text.
func celType(t workflows.Type) *cel.Type {
	name, elem := t.Split()
	switch name {
	case "string", "duration", "timestamp":
		return cel.StringType
	case "int":
		return cel.IntType
	case "double":
		return cel.DoubleType
	case "bool":
		return cel.BoolType
	case "list":
		return cel.ListType(celType(elem))
	case "map":
		return cel.MapType(cel.StringType, celType(elem))
	}
	return cel.DynType
}

// fits reports whether an expression of type have may stand where a value of
// type want is declared. What is only known at run time is checked then.
func fits(have *cel.Type, want workflows.Type) bool {
	name, elem := want.Split()
	switch have.Kind() {
	case types.DynKind, types.AnyKind, types.TypeParamKind:
		return true
	case types.NullTypeKind:
		return name == "any"
	case types.OpaqueKind:
		return isOptional(have) && len(have.Parameters()) == 1 && fits(have.Parameters()[0], want)
	}
	switch name {
	case "any":
		return true
	case "string":
		return have.Kind() == types.StringKind
	case "duration":
		return have.Kind() == types.StringKind || have.Kind() == types.DurationKind
	case "timestamp":
		return have.Kind() == types.StringKind || have.Kind() == types.TimestampKind
	case "int":
		return have.Kind() == types.IntKind
	case "double":
		return have.Kind() == types.DoubleKind || have.Kind() == types.IntKind
	case "bool":
		return have.Kind() == types.BoolKind
	case "list":
		return have.Kind() == types.ListKind && fits(have.Parameters()[0], elem)
	case "map":
		return have.Kind() == types.StructKind || have.Kind() == types.MapKind && fits(have.Parameters()[1], elem)
	}
	return false
}

// typeText names a CEL type in the words of the language.
func typeText(t *cel.Type) string {
	switch t.Kind() {
	case types.DynKind, types.AnyKind:
		return "any"
	case types.ListKind:
		return "list(" + typeText(t.Parameters()[0]) + ")"
	case types.MapKind:
		return "map(" + typeText(t.Parameters()[1]) + ")"
	case types.StructKind:
		return "an object"
	case types.OpaqueKind:
		if isOptional(t) {
			return "optional " + typeText(t.Parameters()[0])
		}
	}
	return strings.TrimPrefix(t.String(), "google.protobuf.")
}

// outputTypes gives the CEL fields of outputs as they are declared.
func outputTypes(declared map[string]string) map[string]*cel.Type {
	fields := make(map[string]*cel.Type, len(declared))
	for name, t := range declared {
		plain, _ := workflows.Optional(t)
		fields[name] = celType(plain)
	}
	return fields
}

func isOptional(t *cel.Type) bool { return t.TypeName() == "optional_type" }
