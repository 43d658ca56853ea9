package server

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// CanIssue says why no directory can issue a certificate now; nil if one can: a server is of use to the
// others' devices while one issuing CA is over.
func (s *Server) CanIssue(now time.Time) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(s.Directories)) {
		err := s.Issuers[s.Directories[name].Issuer].ValidAt(now)
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("directory %s: %w", name, err))
	}
	return errors.Join(errs...)
}
