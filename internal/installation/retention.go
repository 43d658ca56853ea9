package installation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"assay/internal/issuance"
	"assay/internal/lifetime"
)

// Retention configures how long evidence and decisions are kept, by what became of the request.
type Retention struct {
	Issued  Keep `yaml:"issued,omitempty"`
	Held    Keep `yaml:"held,omitempty"`
	Refused Keep `yaml:"refused,omitempty"`
}

// Keep is a time from when the evidence came: forever, none (not kept once the order is over), or
// such as 90d.
type Keep struct {
	// Object is for the evidence as received, without which nothing can be verified again.
	Object string `yaml:"object,omitempty"`
	// Facts is for what it established, and for everything else that the decision rested on. At least as
	// long as Object.
	Facts string `yaml:"facts,omitempty"`
}

// parse reads the retention, with defaults for what is left out.
func (r *Retention) parse() (issuance.Retention, error) {
	out := issuance.DefaultRetention()
	var errs []error
	for _, part := range []struct {
		name string
		from Keep
		to   *issuance.Keep
	}{{"issued", r.Issued, &out.Issued}, {"held", r.Held, &out.Held}, {"refused", r.Refused, &out.Refused}} {
		for _, one := range []struct {
			key, text string
			to        *time.Duration
		}{{"object", part.from.Object, &part.to.Object}, {"facts", part.from.Facts, &part.to.Facts}} {
			if err := parseKeep(one.text, one.to); err != nil {
				errs = append(errs, fmt.Errorf("retention.%s.%s: %w", part.name, one.key, err))
			}
		}
		if part.from.Object == "" { // a default is no reason for a fault
			part.to.Object = min(part.to.Object, part.to.Facts)
		}
		if part.to.Facts < part.to.Object {
			errs = append(errs, fmt.Errorf("retention.%s: objects are kept longer than the facts in them", part.name))
		}
	}
	return out, errors.Join(errs...)
}

func parseKeep(text string, to *time.Duration) (err error) {
	switch text {
	case "":
	case "forever":
		*to = issuance.Forever
	case "none":
		*to = 0
	default:
		*to, err = lifetime.Parse(text)
		if err == nil && *to <= 0 {
			err = fmt.Errorf("%q is not forever, none, or a time such as 90d", text)
		}
	}
	return err
}

// cleaning removes what is over, and what is not to be kept any longer: once a minute, while the clock is believed.
type cleaning struct {
	installation *Installation
	log          *slog.Logger
	doubted      bool // the clock, the time before
}

func (c *cleaning) up(ctx context.Context) error {
	i := c.installation
	now := i.now()
	silent, doubtful, err := i.Store.DoubtClock(ctx, now)
	if err != nil {
		return err
	}
	if doubtful {
		if !c.doubted {
			c.log.Warn("nothing is removed for a day: by the clock, no server ran for more than a week. If one did, the clock is wrong: set it right", "silent_since", silent, "clock", now)
		}
		c.doubted = true
		return nil
	}
	if c.doubted {
		c.log.Info("what is over is removed again: the clock is believed", "clock", now)
	}
	c.doubted = false
	cleaned, err := i.Store.CleanUp(ctx, now)
	c.log.Debug("cleaned up", "rows", cleaned)
	return errors.Join(err, i.applyRetention(ctx, now, c.log))
}

// applyRetention removes what is not to be kept any longer, by a clock that is believed.
func (i *Installation) applyRetention(ctx context.Context, now time.Time, log *slog.Logger) error {
	retention, err := i.Config.Retention.parse()
	if err != nil {
		return err
	}
	removed, err := i.Store.ApplyRetention(ctx, now, retention)
	if removed != (issuance.Removed{}) {
		log.Info("retention removed", "objects", removed.Objects, "facts", removed.Facts, "evidence", removed.Evidence, "decisions", removed.Decisions, "holds", removed.Holds)
	}
	return err
}
