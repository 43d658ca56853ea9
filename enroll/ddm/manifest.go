package ddm

import (
	"encoding/json"
	"errors"
	"fmt"
)

// manifest is what an MDM says that a device is to hold.
type manifest struct {
	token string // DeclarationsToken
	items []item
}

type item struct {
	kind                    Kind
	endpoint                string // what the declaration is asked for by
	identifier, serverToken string
}

// parseTokens reads the answer of the endpoint tokens, which a command may bring along.
func parseTokens(data []byte) (declarationsToken string, err error) {
	var answer, sync object
	if json.Unmarshal(data, &answer) != nil || answer.read("SyncTokens", &sync) != nil || sync.read("DeclarationsToken", &declarationsToken) != nil {
		return "", errors.New("tokens are not the JSON object that they must be")
	}
	if declarationsToken == "" {
		return "", errors.New("tokens have no DeclarationsToken")
	}
	return declarationsToken, nil
}

// parseManifest reads the answer of the endpoint declaration-items.
func parseManifest(data []byte) (*manifest, error) {
	var answer, declarations object
	m := &manifest{}
	if json.Unmarshal(data, &answer) != nil || answer.read("Declarations", &declarations) != nil || answer.read("DeclarationsToken", &m.token) != nil {
		return nil, errors.New("declaration-items are not the JSON object that they must be")
	}
	if m.token == "" {
		return nil, errors.New("declaration-items have no DeclarationsToken")
	}
	seen := map[string]bool{}
	for _, k := range kinds {
		var listed []object
		if err := declarations.read(k.manifest, &listed); err != nil {
			return nil, fmt.Errorf("declaration-items: %w", err)
		}
		if len(m.items)+len(listed) > maxDeclarations {
			return nil, fmt.Errorf("declaration-items: more than %d declarations", maxDeclarations)
		}
		for _, o := range listed {
			i := item{kind: k.kind, endpoint: k.endpoint}
			if err := errors.Join(o.read("Identifier", &i.identifier), o.read("ServerToken", &i.serverToken)); err != nil {
				return nil, fmt.Errorf("declaration-items: %s: %w", k.manifest, err)
			}
			if !isName(i.identifier) || !isName(i.serverToken) || seen[i.identifier] {
				return nil, fmt.Errorf("declaration-items: %s: %.80q has no Identifier and ServerToken of its own of 1 to %d octets", k.manifest, i.identifier, maxName)
			}
			seen[i.identifier] = true
			m.items = append(m.items, i)
		}
	}
	return m, nil
}
