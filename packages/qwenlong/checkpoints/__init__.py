"""Checkpoints: conversion of verl's shards, SCE merge, verification."""
