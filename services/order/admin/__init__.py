"""The operators' view and acts: live sagas, guarded repairs, and a record of each act."""
