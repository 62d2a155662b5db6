//go:build tools

// Package tools names the program that build.sh builds, so that go.mod and go.sum pin what it is made of.
package tools

import _ "sigs.k8s.io/kueue/cmd/kueue"
