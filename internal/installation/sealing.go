package installation

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"assay/internal/files"
)

// sealInterval is how often the audit is sealed: what was committed since can still be changed unseen.
const sealInterval = 5 * time.Second

const pemPrivateKey = "PRIVATE KEY"

func auditKeyPath(dir string) string { return filepath.Join(dir, keysFolder, "audit.key") }

// AuditKey is the public key that verifies the seals of the audit.
func (i *Installation) AuditKey() (ed25519.PublicKey, error) {
	key, err := auditKey(i.Dir)
	if err != nil {
		return nil, err
	}
	return key.Public().(ed25519.PublicKey), nil
}

// auditKey is the key that seals the audit, made when it is first asked for.
func auditKey(dir string) (ed25519.PrivateKey, error) {
	path := auditKeyPath(dir)
	data, err := files.ReadSecret(path, files.MaxPEM)
	if errors.Is(err, fs.ErrNotExist) {
		return makeAuditKey(path)
	} else if err != nil {
		return nil, &ConfigError{fmt.Errorf("read audit key: %w", err)}
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != pemPrivateKey {
		return nil, &ConfigError{fmt.Errorf("read audit key: %s holds no PEM private key", path)}
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := parsed.(ed25519.PrivateKey)
	if err != nil || !ok {
		return nil, &ConfigError{fmt.Errorf("read audit key: %s holds no Ed25519 key", path)}
	}
	return key, nil
}

// sealingKey is auditKey for a server. Where several share a database, one that lost its key must not go on
// with another.
func (i *Installation) sealingKey(ctx context.Context) (ed25519.PrivateKey, error) {
	path := auditKeyPath(i.Dir)
	if _, err := os.Stat(path); i.Store.Shared() && errors.Is(err, fs.ErrNotExist) {
		last, err := i.Store.LastSeal(ctx)
		if err != nil {
			return nil, err
		}
		if last != nil {
			return nil, &ConfigError{fmt.Errorf("%s is missing, but the audit trail in the database is sealed: copy the key from another server's folder", path)}
		}
	}
	return auditKey(i.Dir)
}

func makeAuditKey(path string) (ed25519.PrivateKey, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	if err := writeNew(path, pem.EncodeToMemory(&pem.Block{Type: pemPrivateKey, Bytes: der}), 0o600); errors.Is(err, fs.ErrExist) {
		return auditKey(filepath.Dir(filepath.Dir(path))) // another process was first
	} else if err != nil {
		return nil, fmt.Errorf("make audit key: %w", err)
	}
	return key, nil
}

// sealAudit seals the audit until the context ends, and then once more.
func (i *Installation) sealAudit(ctx context.Context, key ed25519.PrivateKey, turns *turns, log *slog.Logger) {
	seal := func(ctx context.Context) error {
		_, err := i.Store.SealAudit(ctx, i.now(), key)
		return err
	}
	ticker := time.NewTicker(sealInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), i.limits.shutdown)
			defer cancel()
			if err := seal(last); err != nil {
				log.Error("seal audit", "error", err)
			}
			return
		case <-ticker.C:
			if err := turns.take(ctx, "seal audit", seal); err != nil && ctx.Err() == nil {
				log.Error("seal audit", "error", err)
			}
		}
	}
}
