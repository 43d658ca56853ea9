package policy

import (
	"embed"
	"errors"
	"io/fs"
	"slices"
	"strings"
)

//go:embed examples/*.yaml
var examples embed.FS

// Examples are the names of the policies that Assay brings along to begin with.
func Examples() []string {
	entries, err := fs.ReadDir(examples, "examples")
	if err != nil {
		panic("policy: " + err.Error()) // they are embedded
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	slices.Sort(names)
	return names
}

// Example is the text of a policy to begin with.
func Example(name string) ([]byte, error) {
	if !slices.Contains(Examples(), name) {
		return nil, errors.New("there is no such example; there are: " + strings.Join(Examples(), ", "))
	}
	return examples.ReadFile("examples/" + name + ".yaml")
}
