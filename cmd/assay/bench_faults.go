package main

import "context"

type benchFaultsCommand struct {
}

func (c *benchFaultsCommand) Run(ctx context.Context, term *terminal, g *globals) error { return nil }
