package parse

import (
	"errors"

	"github.com/penstock-cd/penstock/workflows"
)

// Compile compiles another expression with the names that this one may read.
// Its value may be of any type.
func (p *program) Compile(source string) (workflows.Program, error) {
	checked, issues := p.in.env.Compile(source)
	if issues.Err() != nil {
		return nil, errors.New(issues.String())
	}
	return newProgram(p.in, checked), nil
}
