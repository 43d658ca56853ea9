package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"assay/internal/issuance"
)

// A server that runs writes an audit row a day at least, as it renews its CRLs.
const (
	clockGap   = 7 * 24 * time.Hour // the trail is silent for so long only if no server ran, or if the clock is ahead
	clockTrial = 24 * time.Hour     // a server has to go on for so long before such a clock is believed
)

// DoubtClock tells whether now may be of a clock that is far ahead, so that nothing should be removed by it: the
// audit trail was silent for more than a week, until a day ago or less. It returns since when. Where the trail
// knows no time before, nothing is old.
func (s *Store) DoubtClock(ctx context.Context, now time.Time) (silentSince time.Time, doubtful bool, err error) {
	tried := now.Add(-clockTrial)
	var at int64
	err = s.reads.row(ctx, `SELECT time FROM audit WHERE id < ? ORDER BY id DESC LIMIT 1`, issuance.FirstID[issuance.AuditID](tried)).Scan(&at)
	if errors.Is(err, sql.ErrNoRows) {
		return time.Time{}, false, nil
	} else if err != nil {
		return time.Time{}, false, fmt.Errorf("read when the audit trail was last written: %w", err)
	}
	silentSince = timeOf(at)
	return silentSince, tried.Sub(silentSince) > clockGap, nil
}
