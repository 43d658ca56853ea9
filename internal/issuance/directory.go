package issuance

import "slices"

// ChooseDirectory is the ACME directory of these names that is meant: the given one, or for "" the only
// one, else "default". ok says whether there is such a one.
func ChooseDirectory(names []string, given string) (name string, ok bool) {
	switch {
	case given != "":
		name = given
	case len(names) == 1:
		name = names[0]
	default:
		name = "default"
	}
	return name, slices.Contains(names, name)
}
