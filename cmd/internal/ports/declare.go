package ports

import (
	"fmt"
	"os"

	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

// Declare adds the keys of --key and the entities of a file to a broker's configuration. flag names
// the flag of the file; an empty name of the file adds nothing. The error names the flag that is
// wrong.
func Declare(cfg *servicebus.Config, keys []string, flag, file string) error {
	for _, text := range keys {
		key, err := servicebus.ParseKey(text)
		if err != nil {
			return fmt.Errorf("--key: %w", err)
		}
		cfg.Keys = append(cfg.Keys, key)
	}
	if file == "" {
		return nil
	}
	declared, err := os.Open(file) //nolint:gosec // the user names the file
	if err != nil {
		return fmt.Errorf("--%s: %w", flag, err)
	}
	defer declared.Close()
	queues, topics, err := servicebus.ReadEntities(declared)
	if err != nil {
		return fmt.Errorf("--%s %s: %w", flag, file, err)
	}
	cfg.Queues, cfg.Topics = append(cfg.Queues, queues...), append(cfg.Topics, topics...)
	return nil
}
