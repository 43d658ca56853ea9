package installation

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"

	"assay/internal/store"
)

// databaseVariable is the environment variable that says where the database is.
const databaseVariable = "ASSAY_DATABASE"

// DatabaseLocation is where the installation's database is, as store.Open takes it.
func (c *Config) DatabaseLocation(dir string) string {
	if c.Database != "" {
		return c.Database
	}
	return filepath.Join(dir, databaseFile)
}

// useEnvironment takes what the environment says in place of the file.
func (c *Config) useEnvironment() error {
	location, err := EnvironmentDatabase()
	if err == nil && location != "" {
		c.Database = location
	}
	return err
}

// EnvironmentDatabase is the database that the environment's ASSAY_DATABASE names, which every installation
// uses that is opened in it; "" for none. What is no URL of a PostgreSQL database is refused.
func EnvironmentDatabase() (string, error) {
	location := os.Getenv(databaseVariable)
	if err := checkDatabase(location); err != nil {
		return "", fmt.Errorf("%s: %w", databaseVariable, err)
	}
	return location, nil
}

// checkDatabase refuses what is no location of a database, without repeating its password.
func checkDatabase(location string) error {
	if location != "" && !store.IsPostgres(location) {
		return errors.New("it is not a URL of a PostgreSQL database: it is written like postgres://assay@db.example.com/assay")
	}
	return nil
}

// databaseLine is the line of a configuration that says where the database is.
var databaseLine = regexp.MustCompile(`(?m)^["']?database["']?[ \t]*:.*(?:\n|\z)`)

// SetDatabase is the text of a configuration that names another database, or, with "", none: then it is the
// file in the folder. Everything else in the text stays as it is. It also returns what the text named before.
// It fails where the text names its database in more than one line.
func SetDatabase(config []byte, location string) (changed []byte, before string, err error) {
	want, err := parseConfig(config)
	if err != nil {
		return nil, "", err
	}
	before, want.Database = want.Database, location
	line := ""
	if location != "" {
		line = "database: " + strconv.Quote(location) + "\n"
	}
	if at := databaseLine.FindIndex(config); at != nil {
		changed = append(append(append(changed, config[:at[0]]...), line...), config[at[1]:]...)
	} else {
		changed = append(changed, config...)
		if n := len(changed); line != "" && n > 0 && changed[n-1] != '\n' {
			changed = append(changed, '\n')
		}
		changed = append(changed, line...)
	}
	// The text is changed, not made anew, so that comments stay: whether that went well shows in what it says.
	got, err := parseConfig(changed)
	if err != nil || !reflect.DeepEqual(got, want) {
		return nil, "", fmt.Errorf("database cannot be set in %s: write it there as one line of its own, database: URL", configFile)
	}
	return changed, before, nil
}
