package workflows

// Compiler is a Program that can make others which read the same names: what
// could stand in its place in the file.
type Compiler interface {
	Program
	Compile(source string) (Program, error)
}
