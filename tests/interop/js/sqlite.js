// What the rendezvous server of canvas needs of better-sqlite3, which has to be compiled, on the SQLite of Node.js.
import { DatabaseSync } from 'node:sqlite'

export default class Database extends DatabaseSync {
  defaultSafeIntegers () {}

  prepare (sql) {
    const statement = super.prepare(sql)
    statement.setReadBigInts(true)
    return statement
  }
}
