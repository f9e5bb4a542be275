// Command generate writes penstock.schema.json.
package main

import (
	"fmt"
	"os"
)

func main() {
	meanings, err := readMeanings("../../../../workflows")
	if err == nil {
		err = os.WriteFile("penstock.schema.json", schema(meanings), 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
