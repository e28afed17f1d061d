"""What operators see and do: live sagas, repairs that are guarded like everything else, and a record of each act."""
