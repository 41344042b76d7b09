package config

import "maps"

// Described returns a copy of the descriptions, by key.
func Described() map[string]string { return maps.Clone(descriptions) }
